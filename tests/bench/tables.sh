#!/usr/bin/env bash
# tests/bench/tables.sh - makes the README's tables of measurements from results.tsv, so that no figure is typed by hand.
#
# Between a line "<!-- results QUANTITY on DEVICE at CONTEXT -->" and the next "<!-- end -->" the README gets the newest row
# of every (device, model, method, context, sequences, quantity) that matches the three regular expressions. A line
# "<!-- budgets QUANTITY on DEVICE at CONTEXT -->" makes a table of one quantity instead: a row for each model and method, a
# column for each budget that `clsa eval` wrote behind the quantity (accuracy.passkey.k256). Run from the top of the checkout.
set -euo pipefail
cd "$(dirname "$0")/../.."

awk -F '\t' -v results=tests/bench/results.tsv '
function percent(floor, median) { return floor + 0 > 0 && median + 0 > 0 ? sprintf("%.0f", 100 * floor / median) : "-" }
function table(words,    i, key, f, part) {
    split(words, part, / on | at /)
    print "| device | model | method | context | sequences | quantity | median | spread | floor | unit | % of floor | date |"
    print "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |"
    for (i = 1; i <= n; i++) {
        split(row[order[i]], f, "\t")
        if (f[10] ~ "^(" part[1] ")$" && f[3] ~ "^(" part[2] ")$" && f[8] ~ "^(" part[3] ")$")
            printf "| %s | %s | %s | %s | %s | %s | %s | %s | %s | %s | %s | %s |\n", f[3], f[6], f[7], f[8], f[9], f[10], f[11],
                   f[12], f[13], f[14], (f[10] ~ /^(decode_step|prefill|stage|kernel|peer|dram)/ ? percent(f[13], f[11]) : "-"), f[1]
    }
}
# One quantity by budget: "all" is what a method that selects nothing has.
function budgets(words,    i, j, f, part, budget, name, cell, names, n_names, columns, n_columns, seen, line) {
    split(words, part, / on | at /)
    for (i = 1; i <= n; i++) {
        split(row[order[i]], f, "\t")
        budget = f[10]
        if (!sub("^" part[1] "(\\.k|$)", "", budget) || budget !~ /^[0-9]*$/) continue
        if (f[3] !~ "^(" part[2] ")$" || f[8] !~ "^(" part[3] ")$") continue
        budget = budget == "" ? "all" : budget
        name = f[6] " | " f[7]
        if (!(name in seen)) { seen[name] = 1; names[++n_names] = name }
        if (!(budget in columns)) { columns[budget] = ++n_columns; heads[n_columns] = budget }
        cell[name, budget] = f[11] (f[12] == "-" ? "" : " ± " f[12])
    }
    sort_heads(n_columns)
    line = "| model | method |"
    for (j = 1; j <= n_columns; j++) line = line " " (heads[j] == "all" ? "all" : "k " heads[j]) " |"
    print line
    gsub(/[^|]+/, " --- ", line)
    print line
    for (i = 1; i <= n_names; i++) {
        line = "| " names[i] " |"
        for (j = 1; j <= n_columns; j++) line = line " " ((names[i], heads[j]) in cell ? cell[names[i], heads[j]] : "-") " |"
        print line
    }
}
function sort_heads(n,    i, j, swap) {    # "all" counts as 0
    for (i = 2; i <= n; i++)
        for (j = i; j > 1 && heads[j - 1] + 0 > heads[j] + 0; j--) { swap = heads[j]; heads[j] = heads[j - 1]; heads[j - 1] = swap }
}
BEGIN {
    while ((getline line < results) > 0) {
        split(line, f, "\t")
        if (f[1] == "date") continue
        key = f[3] SUBSEP f[6] SUBSEP f[7] SUBSEP f[8] SUBSEP f[9] SUBSEP f[10]
        if (!(key in row)) order[++n] = key
        row[key] = line
    }
}
/^<!-- results / { print; pattern = $0; sub(/^<!-- results /, "", pattern); sub(/ -->$/, "", pattern); table(pattern); skipping = 1; next }
/^<!-- budgets / { print; pattern = $0; sub(/^<!-- budgets /, "", pattern); sub(/ -->$/, "", pattern); budgets(pattern); skipping = 1; next }
/^<!-- end -->/ { skipping = 0 }
!skipping { print }
' README.md >README.md.part
mv README.md.part README.md
