#!/usr/bin/env bash
# tests/bench/tables.sh - makes the tables of the pages below from results.tsv, so that no figure is typed by hand.
#
# Each stands between a line "<!-- KIND QUANTITY on DEVICE at CONTEXT -->" and the next "<!-- end -->", made of the newest row
# of every (device, model, method, context, sequences, quantity) that matches the three regular expressions. KIND is
#   results  those rows as they are
#   budgets  one quantity: a row for each model and method, a column for each budget that `clsa eval` wrote behind the
#            quantity (accuracy.passkey.k256); QUANTITY is "quantity of model", two expressions
#   steps    whole steps: a row for each method; QUANTITY is the model
#   serving  a row for each method under each load: as measured, and in brackets what the simulator was off by in percent,
#            calibrated and as a bare roofline
#   errors   what predictions of recorded shapes miss by: a row for each set of methods that was judged; QUANTITY is their
#            names, as rows have them, CONTEXT what rows call the shapes
#   counters a row for each operator and number of sequences: what kernel_counters.py read
#   kernels  a row for each operator: ours, its floor, and every peer that was timed beside it, by number of sequences
# Run from the top of the checkout.
set -euo pipefail
cd "$(dirname "$0")/../.."

for page in README.md tests/bench/RESULTS.md workloads/train/README.md; do
awk -F '\t' -v results=tests/bench/results.tsv '
function percent(floor, median) { return floor + 0 > 0 && median + 0 > 0 ? sprintf("%.0f", 100 * floor / median) : "-" }
function figure(x) { return sprintf(x + 0 >= 1000 ? "%.0f" : "%.4g", x) }
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
    split(words, part, / of | on | at /)
    for (i = 1; i <= n; i++) {
        split(row[order[i]], f, "\t")
        budget = f[10]
        if (!sub("^" part[1] "(\\.k|$)", "", budget) || budget !~ /^[0-9]*$/) continue
        if (f[6] !~ "^(" part[2] ")$" || f[3] !~ "^(" part[3] ")$" || f[8] !~ "^(" part[4] ")$") continue
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
# "1: 2.45 (73%), 8: 2.79 (73%)": each number of sequences with its median and what that is of the floor, fewest first.
function by_sequences(list, n_list,    i, j, f, swap, text, share) {
    for (i = 2; i <= n_list; i++)
        for (j = i; j > 1 && sequences(list[j - 1]) > sequences(list[j]); j--) {
            swap = list[j]; list[j] = list[j - 1]; list[j - 1] = swap
        }
    for (i = 1; i <= n_list; i++) {
        split(list[i], f, "\t")
        share = percent(f[13], f[11])
        text = text (i > 1 ? ", " : "") f[9] ": " figure(f[11]) (share == "-" ? "" : " (" share "%)")
    }
    return text == "" ? "-" : text
}
function sequences(line,    f) { split(line, f, "\t"); return f[9] + 0 }
function steps(words,    i, part, f, names, n_names, count, lines, quantity, cells, kinds, k, m, list) {
    split(words, part, / on | at /)
    split("prefill decode_step end_to_end", kinds, " ")
    for (i = 1; i <= n; i++) {
        split(row[order[i]], f, "\t")
        if (f[6] !~ "^(" part[1] ")$" || f[3] !~ "^(" part[2] ")$" || f[8] !~ "^(" part[3] ")$") continue
        if (f[10] !~ /^(prefill|decode_step|end_to_end)$/) continue
        if (!(f[7] in count)) { count[f[7]] = 1; names[++n_names] = f[7] }
        lines[f[7], f[10], ++count[f[7], f[10]]] = row[order[i]]
    }
    print "| method | prefill, ms | decode step, ms, by sequences (% of floor) | end to end, tokens/s |"
    print "| --- | --- | --- | --- |"
    for (i = 1; i <= n_names; i++) {
        printf "| `%s`", names[i]
        for (k = 1; k <= 3; k++) {
            split("", list)
            for (m = 1; m <= count[names[i], kinds[k]]; m++) list[m] = lines[names[i], kinds[k], m]
            printf " | %s", by_sequences(list, count[names[i], kinds[k]] + 0)
        }
        print " |"
    }
}
# What we and the peers take, in microseconds.
function kernels(words,    i, j, part, f, name, source, names, n_names, known, sources, n_sources, batches, cell, line, text, unit) {
    split(words, part, / on | at /)
    for (i = 1; i <= n; i++) {
        split(row[order[i]], f, "\t")
        if (f[10] !~ /^(kernel|peer)\./ || f[3] !~ "^(" part[2] ")$" || f[8] !~ "^(" part[3] ")$") continue
        name = f[10]
        source = "ours"
        if (sub(/^kernel\./, "", name) == 0) {
            sub(/^peer\./, "", name)
            source = substr(name, 1, index(name, ".") - 1)
            name = substr(name, index(name, ".") + 1)
        }
        if (name !~ "^(" part[1] ")$") continue
        if (!(name in known)) { known[name] = 1; names[++n_names] = name }
        if (!((name, f[9]) in known)) { known[name, f[9]] = 1; batches[name] = batches[name] (batches[name] == "" ? "" : " ") f[9] }
        if (source != "ours" && !(source in known)) { known[source] = 1; sources[++n_sources] = source }
        unit = f[14] == "ms" ? 1000 : 1
        cell[name, source, f[9]] = figure(f[11] * unit)
        if (source == "ours" && f[13] + 0 > 0) cell[name, "floor", f[9]] = figure(f[13] * unit)
    }
    line = "| operator | sequences | ours, us | floor |"
    text = "| --- | --- | --- | --- |"
    for (j = 1; j <= n_sources; j++) { line = line " " sources[j] " |"; text = text " --- |" }
    print line
    print text
    sources[-1] = "ours"
    sources[0] = "floor"
    for (i = 1; i <= n_names; i++) {
        line = batches[names[i]]
        gsub(/ /, " / ", line)
        line = "| `" names[i] "` | " line " |"
        for (j = -1; j <= n_sources; j++) line = line " " joined(cell, names[i], sources[j], batches[names[i]]) " |"
        print line
    }
}
# Median, 95th percentile and number; in brackets those of the bare roofline, and behind "again" what readings are apart.
function errors(words,    i, j, k, part, f, name, names, n_names, seen, levels, modes, value, n_levels, cell, line) {
    split(words, part, / on | at /)
    n_levels = split("step.decode step.prefill step_undisturbed stage_over_1_percent", levels, " ")
    split("calibrated roofline again", modes, " ")
    for (i = 1; i <= n; i++) {
        split(row[order[i]], f, "\t")
        if (f[10] !~ /^sim_error\.st(ep|age)/ || f[7] !~ "^(" part[1] ")$" || f[3] !~ "^(" part[2] ")$" || f[8] !~ "^(" part[3] ")$") continue
        name = f[3] " | " f[8] " | " f[7]
        if (!(name in seen) && f[10] ~ /\.calibrated$/) { seen[name] = 1; names[++n_names] = name }
        value[name, f[10]] = f[11]
    }
    print "| device | shapes | methods | decode steps | prefill steps | all steps | stages of more than 1% of a step |"
    print "| --- | --- | --- | --- | --- | --- | --- |"
    for (i = 1; i <= n_names; i++) {
        line = "| " names[i] " |"
        for (j = 1; j <= n_levels; j++) {
            for (k = 1; k <= 3; k++) {
                name = names[i] SUBSEP "sim_error." levels[j] "." modes[k]
                cell[k] = (name in value) ? sprintf("%.1f, %.1f", value[name], value[name ".p95"]) : "-"
            }
            name = names[i] SUBSEP "sim_error." levels[j] ".calibrated.n"
            line = line " " cell[1] " (" cell[2] ")" (cell[3] == "-" ? "" : " again " cell[3]) ((name in value) ? " of " value[name] : "") " |"
        }
        print line
    }
}
# Percent of the most there can be; of stalls, warps that wait whenever one issues.
function counters(words,    i, j, part, f, path, name, names, n_names, seen, what, n_what, value, line) {
    split(words, part, / on | at /)
    n_what = split("us dram tensor issue warps stall", what, " ")
    for (i = 1; i <= n; i++) {
        split(row[order[i]], f, "\t")
        if (f[10] !~ "^counter\\.(" part[1] ")\\." || f[3] !~ "^(" part[2] ")$" || f[8] !~ "^(" part[3] ")$") continue
        split(f[10], path, ".")
        name = "`" path[2] "` | " f[9]
        if (!(name in seen)) { seen[name] = 1; names[++n_names] = name }
        value[name, path[3]] = (f[11] >= 1000 ? figure(f[11]) : sprintf("%.3g", f[11])) (path[3] == "stall" ? " " f[14] : "")
    }
    print "| operator | sequences | us | device memory % | tensor cores % | issue % | warps % | most wait for |"
    print "| --- | --- | --- | --- | --- | --- | --- | --- |"
    for (i = 1; i <= n_names; i++) {
        line = "| " names[i] " |"
        for (j = 1; j <= n_what; j++) line = line " " ((names[i], what[j]) in value ? value[names[i], what[j]] : "-") " |"
        print line
    }
}
# words: "METRICS on DEVICE at CONTEXT", METRICS as bench_serving names them, separated by commas.
function serving(words,    i, j, part, f, names, n_names, seen, metrics, n_metrics, value, path, name, line) {
    split(words, part, / on | at /)
    n_metrics = split(part[1], metrics, ",")
    for (i = 1; i <= n; i++) {
        split(row[order[i]], f, "\t")
        if (f[10] !~ /^(sim_error\.)?serving\./ || f[3] !~ "^(" part[2] ")$" || f[8] !~ "^(" part[3] ")$") continue
        split(f[10], path, ".")
        j = path[1] == "sim_error" ? 3 : 2
        name = f[3] " | " f[6] " | " f[7] " | " path[j]
        if (!(name in seen)) { seen[name] = 1; names[++n_names] = name }
        value[name, path[j + 1], path[j + 2]] = f[11]
    }
    line = "| device | model | method | load |"
    for (j = 1; j <= n_metrics; j++) line = line " " metrics[j] " |"
    print line
    gsub(/[^|]+/, " --- ", line)
    print line
    for (i = 1; i <= n_names; i++) {
        line = "| " names[i] " |"
        for (j = 1; j <= n_metrics; j++) {
            name = names[i] SUBSEP metrics[j]
            line = line (((name, "") in value) ? sprintf(" %.4g (%+.1f, %+.0f) |", value[name, ""], value[name, "calibrated"], value[name, "roofline"]) : " - |")
        }
        print line
    }
}
function joined(cell, name, source, batches,    list, n_list, i, text, some) {
    n_list = split(batches, list, " ")
    for (i = 1; i <= n_list; i++) {
        some += ((name, source, list[i]) in cell)
        text = text (i > 1 ? " / " : "") ((name, source, list[i]) in cell ? cell[name, source, list[i]] : "-")
    }
    return some ? text : "-"
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
/^<!-- (results|budgets|steps|kernels|serving|counters|errors) / {
    print
    kind = $0
    sub(/^<!-- /, "", kind)
    sub(/ -->$/, "", kind)
    pattern = kind
    sub(/^[a-z]+ /, "", pattern)
    sub(/ .*/, "", kind)
    if (kind == "results") table(pattern)
    if (kind == "budgets") budgets(pattern)
    if (kind == "steps") steps(pattern)
    if (kind == "kernels") kernels(pattern)
    if (kind == "serving") serving(pattern)
    if (kind == "counters") counters(pattern)
    if (kind == "errors") errors(pattern)
    skipping = 1
    next
}
/^<!-- end -->/ { skipping = 0 }
!skipping { print }
' "$page" >"$page.part"
mv "$page.part" "$page"
done
