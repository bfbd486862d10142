#!/bin/sh
# Run the tests at the oldest and at the newest versions that pyproject.toml allows: each takes as long as make test.
#
#     tests/versions.sh [PYTEST_ARGUMENTS]
#
# Needs python3.11 and python3.13 on the PATH. The versions and the tests' output are left in runs/versions/.
set -u
cd "$(dirname "$0")/.."
mkdir -p runs/versions
for row in "oldest python3.11 lowest-direct" "newest python3.13 highest"; do
    name=${row%% *}; rest=${row#* }; python=${rest%% *}; resolution=${rest#* }
    venv=runs/versions/$name
    rm -rf "$venv" && "$python" -m venv "$venv" && "$venv/bin/python" -m pip install -q uv &&
        "$venv/bin/uv" pip install -q --python "$venv/bin/python" --resolution "$resolution" -e ".[book,cluster,play,test]" &&
        "$venv/bin/python" -m pip freeze --exclude-editable > "runs/versions/$name.txt" &&
        "$venv/bin/python" -m pytest -q -n 2 "$@" > "runs/versions/$name.log" 2>&1
    echo "$name: exit $?, $(tail -n 1 "runs/versions/$name.log")"
done
