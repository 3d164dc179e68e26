#!/bin/sh
# A participant's day: from a train_gpt.py to a record folder that was audited.
# In an empty folder:  sh participant.sh TEXTS
set -eu
days=$(cd "$(dirname "$0")" && pwd)
cp -r "$1" texts

echo "== Is anything wrong with my script? Nothing in it is executed."
bitgolf audit "$days/train_gpt.py" || test $? = 1  # 1: there are findings

echo "== A run with the settings of my script; what could not be taken is listed."
bitgolf run baseline --like "$days/train_gpt.py" --data texts --out runs/first

echo "== One change, over three seeds."
cp "$days/ablation.py" .
bitgolf study ablation.py --plan
bitgolf study ablation.py

echo "== The record folder of the arm with EMA."
bitgolf submit runs/studies/ablation/EMA --out records/mine --name "An average of the weights" --author somebody --seeds 1,2,3 || test $? = 1

echo "== The audit, as a comment that a reviewer could post."
bitgolf audit records/mine --markdown || test $? = 1
