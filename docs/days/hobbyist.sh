#!/bin/sh
# A hobbyist's day: from a folder of text to a model that others can open in their browser.
# In an empty folder:  sh hobbyist.sh TEXTS
set -eu
texts=$1

echo "== What would be chosen for these texts? Nothing is trained."
bitgolf make "$texts" --bytes 200000 --minutes 1 --plan

echo "== Train, pack, score, compare."
bitgolf make "$texts" --bytes 200000 --minutes 1 --out runs/mine

echo "== It writes."
bitgolf sample runs/mine --prompt "The " --tokens 40

echo "== It scores a file, makes it small, and gives it back. Most of this file was trained on: new text costs more."
file=$(find "$texts" -type f | sort | head -n 1)
bitgolf score runs/mine --text "$file"
bitgolf compress "$file" -m runs/mine -o small.golf
bitgolf decompress small.golf -m runs/mine -o again.txt
cmp "$file" again.txt

echo "== One page for others: runs/mine/share.html"
bitgolf share runs/mine --prompt "The "
