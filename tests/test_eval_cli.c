// tests/test_eval_cli.c - `clsa eval` as its users meet it: tables, JSON, rows of results, wrong input, Ctrl-C.
#include <jansson.h>
#include <unistd.h>

#include "tests/cli.h"

#define TEXT "--text workloads/texts/constitution.txt "

// Runs `clsa eval` under `prefix` and returns its exit status; -1 if a signal ended it.
static int eval_under(const char *prefix, const char *arguments)
{
    char line[4096];
    snprintf(line, sizeof line, "%s %s eval %s >%s/stdout 2>%s/stderr </dev/null", prefix, getenv("CLSA_BINARY"),
             arguments, folder, folder);
    return cli_ended(system(line));
}

static void expect_error(const char *arguments, const char *words)
{
    int status = eval_under("", arguments);
    CHECK_MESSAGE(status == 2, "eval %s: exit %d: %s", arguments, status, errors);
    CHECK_MESSAGE(strchr(errors, '\n') == errors + strlen(errors) - 1, "eval %s: not one line: %s", arguments, errors);
    expect_words(arguments, words);
}

static double number(const json_t *row, const char *key)
{
    const json_t *value = json_object_get(row, key);
    return json_is_number(value) ? json_number_value(value) : NAN;
}

// The tables hold a row for every method, budget, context and task, and what they count adds up.
static void check_json(void)
{
    int status =
        eval_under("", "--model tiny " TEXT "--context 300,512 --top-k 16,32 --methods dense,clsa,block --samples 6 "
                       "--tasks passkey,variables --depths 0,50,100 --probes 1 --text-documents 1 --json");
    CHECK_MESSAGE(status == 0, "exit %d: %s", status, errors);
    json_t *root = json_loads(output, 0, NULL);
    const json_t *accuracy = json_object_get(root, "accuracy"), *selections = json_object_get(root, "selections");
    const json_t *depths = json_object_get(root, "depths");
    CHECK(json_array_size(accuracy) == 2 * 5 * 2 && json_array_size(selections) == 2 * 5);
    CHECK_MESSAGE(json_array_size(depths) == 2 * 5 * 3, "%zu rows of depths", json_array_size(depths));
    for (size_t i = 0; i < json_array_size(accuracy); i++) {
        const json_t *row = json_array_get(accuracy, i);
        double share = number(row, "accuracy_percent"), low = number(row, "low_percent"),
               high = number(row, "high_percent");
        CHECK(number(row, "samples") == 6 && fabs(share - 100 * number(row, "right") / 6) < 1e-9);
        CHECK(low <= share && share <= high && high - low > 30);
        bool dense = strcmp(json_string_value(json_object_get(row, "method")), "dense") == 0;
        CHECK(isnan(number(row, "budget_tokens")) == dense);
    }
    for (size_t i = 0; i < json_array_size(selections); i++) {
        const json_t *row = json_array_get(selections, i);
        bool dense = strcmp(json_string_value(json_object_get(row, "method")), "dense") == 0;
        double coverage = number(row, "coverage_percent"), exact = number(row, "exact_coverage_percent");
        CHECK(number(row, "bits_per_byte") > 5 && number(row, "probes") == (dense ? 0 : 2));
        CHECK(dense ? isnan(coverage) && isnan(exact) : coverage > 0 && coverage <= exact + 1e-3 && exact < 100);
    }
    for (size_t i = 0; i < json_array_size(depths); i++) {
        const json_t *row = json_array_get(depths, i);
        CHECK(number(row, "samples") == 2 && number(row, "depth_percent") == 50.0 * (double)(i % 3));
    }
    json_decref(root);
}

static void check_agreement(void)
{
    char arguments[512], told[1 << 12];
    snprintf(arguments, sizeof arguments,
             "--model tiny " TEXT "--context 256 --top-k 16 --methods yoco,clsa --samples 5 --tasks multikey "
             "--agree cpu,reference --json --results %s/agree.tsv",
             folder);
    int status = eval_under("", arguments);
    CHECK_MESSAGE(status == 0, "exit %d: %s", status, errors);
    json_t *root = json_loads(output, 0, NULL);
    const json_t *rows = json_object_get(root, "agreement");
    CHECK(json_array_size(rows) == 2);
    for (size_t i = 0; i < json_array_size(rows); i++) {
        // Random weights leave near ties that rounding may decide either way: four of five is all that can be asked
        // for.
        const json_t *row = json_array_get(rows, i);
        double same = number(row, "same"), apart = number(row, "lead_apart"), lead = number(row, "lead");
        CHECK(number(row, "samples") == 5 && same >= 4 && lead > 0);
        CHECK_MESSAGE(same == 5 ? isnan(apart) : apart < lead, "%g of 5, leads %g and %g", same, lead, apart);
    }
    // Rows tell of the agreement, and not what was right: of few questions.
    read_into("agree.tsv", told, sizeof told);
    CHECK_MESSAGE(strstr(told, " (reference/") && strstr(told, "\tyoco\t256\t5\tagreement.multikey\t") &&
                      strstr(told, "\tclsa\t256\t5\tagreement.multikey.k16\t") && !strstr(told, "\taccuracy."),
                  "%s", told);
    json_decref(root);
}

static void check_text_and_results(void)
{
    char arguments[512], rows[1 << 14];
    snprintf(arguments, sizeof arguments,
             "--model tiny " TEXT "--context 512 --top-k 24,64 --methods yoco,block --samples 4 --map "
             "--tasks passkey --probes 1 --text-documents 1 --commit abc --results %s/rows.tsv",
             folder);
    CHECK(eval_under("", arguments) == 0);
    CHECK_MESSAGE(strstr(output, "passkey, block, k 64: % right by depth and context") && strstr(output, "bits/byte"),
                  "%s", output);
    read_into("rows.tsv", rows, sizeof rows);
    CHECK(strncmp(rows, "date\tcommit\tdevice", 18) == 0 && strstr(rows, "\taccuracy.passkey.k64\t"));
    CHECK_MESSAGE(strstr(rows, "\tabc\t") && strstr(rows, "\tyoco\t512\t4\taccuracy.passkey\t") &&
                      strstr(rows, "\tbits_per_byte"),
                  "%s", rows);
    CHECK(eval_under("", arguments) == 0);
    size_t once = strlen(rows);
    read_into("rows.tsv", rows, sizeof rows);
    CHECK(strlen(rows) > once && !strstr(rows + 1, "date\tcommit"));    // appended, under one head
}

static void check_wrong_input(void)
{
    expect_error("--model tiny", "--text FILE");
    expect_error("--model tiny " TEXT "--tasks passkey,pass", "--tasks|pass is not a task|multikey");
    expect_error("--model tiny " TEXT "--tasks copy,copy", "--tasks|named twice");
    expect_error("--model tiny " TEXT "--context 512,many", "--context|many|whole numbers");
    expect_error("--model tiny " TEXT "--context 8", "--context|8|64");
    expect_error("--model tiny " TEXT "--depths 0,101", "--depths|101|0 to 100");
    expect_error("--model tiny " TEXT "--context 128K --samples 1", "constitution.txt|--text-documents 0");
    expect_error("--model tiny " TEXT "--agree cpu", "--agree cpu|two devices");
    expect_error("--model tiny " TEXT "--methods clsa,fast", "fast is not a method");
    expect_error("--model nowhere " TEXT, "nowhere");
    expect_error("--model tiny --text /nowhere/text", "/nowhere/text");
    expect_error("--model tiny " TEXT "--context 300 --device gpu", "gpu");
    expect_error("--model tiny " TEXT "--context 70 --samples 1 --methods dense --tasks frequent --text-documents 0",
                 "frequent|70|too short");
}

// What was answered before a signal is shown, and the status says that it is not all.
static void check_interrupt(void)
{
    int status = eval_under("timeout --foreground --preserve-status -s INT 2",
                            "--model demo-8m " TEXT "--context 1024,8192 --methods yoco --tasks "
                            "passkey,multikey --samples 1000 --text-documents 0");
    CHECK_MESSAGE(status == 130, "exit %d: %s", status, errors);
    CHECK_MESSAGE(strstr(output, "yoco") && strstr(errors, "interrupted"), "%s%s", output, errors);
}

int main(void)
{
    check_begin();
    if (!cli_open()) {
        return check_skip("CLSA_BINARY does not name the program");
    }
    check_json();
    check_agreement();
    check_text_and_results();
    check_wrong_input();
    check_interrupt();
    cli_close();
    return check_end();
}
