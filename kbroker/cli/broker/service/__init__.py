"""The life of a broker's process, as its surroundings see it: a person, a script, systemd, the program that started it.

life.py       what the process is doing, and `running.json`, which says so; all the others are told of it
options.py    the flags of `start` that are about it    ready_file.py, parent.py    two of them
systemd.py    sd_notify                                 detach.py    `start --detach`: to go on in the background
control.py    `status`, `stop`                          ping.py      `ping`
asking.py     a question to a broker                    reach.py     one to each address that clients are told
"""
