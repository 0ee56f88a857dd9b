#!/usr/bin/env bash
# tests/bench/screens.sh - draws the README's screens anew, from demo.pftrace of ./run demo.
#
# Between a line "<!-- screen VIEW ROWS COLS KEYS -->" and the next "<!-- end -->" the README gets what the dashboard
# shows once KEYS (clsa top --script) were pressed. Run from the top of the checkout, after ./run demo.
set -euo pipefail
cd "$(dirname "$0")/../.."
[ -f demo.pftrace ] || { echo "screens.sh: demo.pftrace: missing; ./run demo writes it" >&2; exit 2; }
drawn=$(mktemp)
trap 'rm -f "$drawn"' EXIT
inside=
while IFS= read -r line; do
    case "$line" in
    "<!-- screen "*)
        read -r _ _ view rows cols keys <<<"${line% -->}"
        printf '%s\n```\n' "$line"
        ./build/clsa top --replay demo.pftrace --snapshot "$view" --rows "$rows" --cols "$cols" --script "${keys:-}" \
            2>/dev/null
        printf '```\n'
        inside=yes
        ;;
    "<!-- end -->") printf '%s\n' "$line"; inside= ;;
    *) [ -n "$inside" ] || printf '%s\n' "$line" ;;
    esac
done <README.md >"$drawn"
cat "$drawn" >README.md
