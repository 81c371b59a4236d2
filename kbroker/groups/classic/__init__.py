"""The classic group protocol: JoinGroup, SyncGroup, and a leader among the members that assigns."""
