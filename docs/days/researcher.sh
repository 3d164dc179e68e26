#!/bin/sh
# A researcher's day: from a question to what may be claimed, on one page.
# In an empty folder:  sh researcher.sh TEXTS
set -eu
days=$(cd "$(dirname "$0")" && pwd)
cp -r "$1" texts
cp "$days/question.py" .

echo "== What was found of it before?"
bitgolf findings EMA

echo "== What will it cost, and what can three seeds show?"
bitgolf study question.py --plan

echo "== Run it. Stopped anywhere, the same command goes on."
bitgolf study question.py

echo "== Each arm beside the baseline, in a sentence."
bitgolf compare runs/studies/question

echo "== The ledger has it now, beside what was published."
bitgolf findings EMA --in runs

echo "== All of it on one page: runs/board.html"
bitgolf board runs
