"""The process of a broker: start.py, serve.py, logs.py (its log lines), memory_directory.py; `config`: settings.py."""
