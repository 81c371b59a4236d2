"""The pages of docs/reference/, each made of what the source has.

configuration.py   the table of settings             apis.py          which requests are answered
cli.py             commands, from click's tree       differences.py   from Apache Kafka: compat/odd, unserved APIs
limits.py          constants of the code             errors.py        error codes the broker gives
events.py          the log's
"""
