"""The life of a broker's process, as its surroundings see it: a person, a script, systemd, the program that started it.

life.py       what the process is doing; all the others are told of it
record.py     `running.json` in the data directory; who has a data directory
ready_file.py    --ready-file         systemd.py    sd_notify         parent.py    --exit-with-parent
detach.py     `start --detach`: a broker that goes on when the command has ended
control.py    `status`, `stop`        ping.py       `ping`
"""
