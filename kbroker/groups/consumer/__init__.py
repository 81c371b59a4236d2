"""Groups of the consumer protocol (KIP-848): the broker assigns, and members take one step at a time.

group.py            ConsumerGroup: what happens at each event     core.py             its state, and the moves
member.py           what a member said and owns                   checks.py           what a heartbeat may say
reconciliation.py   one member's next step                        computing.py        what takes long
assignors.py        who is to own what                            migration.py        to the classic protocol and back
classic_members.py  members of the classic protocol
store.py            to records and back                           views.py            as others see it
"""
