"""The process of a broker, or of several.

start.py    `start`: flags, file and environment     serve.py        a broker's process
logs.py     its log lines                            memory_directory.py, layout.py    where the data is
signals.py  what ends it                             banner.py       what it says when it is ready
supervisor.py, supervised.py    `start --brokers N`: who starts brokers, and what one that is started so tells
again.py    this program once more, for `--brokers` and `--detach`
listeners.py    `--listen` and `--advertise`     settings.py     `config`; dynamic.py, of brokers that run
container.py    where it is in an image
service/    the life of the process, as its surroundings see it: `stop`, `status`, `ping`, `start --detach`, systemd
seed/       `start --topic` and `start --seed`: what there is from the start
"""
