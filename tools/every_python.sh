#!/usr/bin/env bash
# every_python.sh COMMAND...: runs a make command once for each minor version of Python from 3.11 on that is found on this
# machine (on the PATH, or under pyenv), each in a virtual environment of its own, .venv-3.12 and so on. Fails if one fails.
set -u
declare -A found
for python in $(compgen -c python3. | sort -u) "${PYENV_ROOT:-$HOME/.pyenv}"/versions/*/bin/python3; do
    path=$(command -v "$python") || continue
    version=$("$path" -c 'import sys, venv, ensurepip; print("%d.%d" % sys.version_info[:2] if sys.version_info >= (3, 11) else "")' 2>/dev/null)
    [ -n "$version" ] && found[$version]=${found[$version]:-$path}
done
[ ${#found[@]} -gt 0 ] || { echo "no Python from 3.11 on with venv was found"; exit 1; }
failed=0
for version in $(printf '%s\n' "${!found[@]}" | sort -V); do
    echo "== Python $version: ${found[$version]}"
    "$@" PYTHON="${found[$version]}" VENV=".venv-$version" || failed=1
done
exit $failed
