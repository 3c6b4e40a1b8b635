#!/bin/sh
# Assembles boot.S into boot.bin, one 512-byte sector. Needs clang and llvm (Debian packages clang, llvm).
set -eu
cd "$(dirname "$0")"
object=$(mktemp)
trap 'rm -f "$object"' EXIT
clang --target=x86_64-linux-gnu -c -o "$object" boot.S
llvm-objcopy -O binary -j .text "$object" "${1:-boot.bin}"
