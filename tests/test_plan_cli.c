// tests/test_plan_cli.c - clsa plan as its users meet it: verdicts, sweeps, rows that survive, wrong input.
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tests/cli_json.h"

static char kept[1 << 20];

static void write_file(const char *name, const char *text, size_t length)
{
    char path[256];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    FILE *stream = fopen(path, "w");
    CHECK(stream && fwrite(text, 1, length, stream) == length && fclose(stream) == 0);
}

static const char small[] = "plan --model bench-100m --workload reasoning --requests 60 --slo-ttft 2 --slo-tpot 40 ";

// The rows of a --json run; the caller releases *root.
static json_t *rows_of(json_t **root, const char *format, const char *arguments)
{
    char line[1024];
    snprintf(line, sizeof line, format, small, arguments);
    return json_rows(root, line, "plan");
}

static int32_t count(const char *line, char what)
{
    int32_t n = 0;
    for (; *line && *line != '\n'; line++) {
        n += *line == what;
    }
    return n;
}

// The same rows for spreadsheets: keys first, a text with commas in quotes.
static void spreadsheet(void)
{
    char line[1024];
    snprintf(line, sizeof line, "%s --method dense,clsa --device H100 --rate 40 --csv", small);
    CHECK_MESSAGE(clsa(line) == 0, "%s", errors);
    const char *row = output;
    CHECK_MESSAGE(strstr(output, "method,") && strstr(output, ",replicas,"), "%s", output);
    for (int r = 0; r < 3; r++) {
        bool even = row && count(row, '"') % 2 == 0, quoted = row && count(row, '"') > 0;
        CHECK_MESSAGE(even && (quoted || count(row, ',') == count(output, ',')), "%s", output);
        row = row ? strchr(row, '\n') : NULL;
        row = row ? row + 1 : NULL;
    }
    CHECK(row && !*row);
}

static void verdicts(void)
{
    json_t *root,
        *rows = rows_of(&root, "%s --json %s", "--method dense,clsa --device H100,L40S --price l40s=1 --rate 40");
    CHECK(json_array_size(rows) == 4);
    size_t i;
    json_t *row;
    json_array_foreach(rows, i, row)
    {
        CHECK(strcmp(string(row, "verdict"), "meets") == 0 && number(row, "replicas") >= 1);
        CHECK(number(row, "ttft_ms") <= 2000 && number(row, "tpot_ms") <= 40 && number(row, "slo_percent") >= 90);
        CHECK(number(row, "headroom") >= 1 && number(row, "dollars_per_million_reserved") > 0);
        CHECK(fabs(number(row, "dollars_per_hour") - (i < 2 ? 4.02 : 1) * number(row, "devices")) < 1e-9);
    }
    json_decref(root);
    rows = rows_of(&root, "%s --json --sweep tp=1..4 %s", "--model paper-4b --method dense --rate 5");
    CHECK(number(json_array_get(rows, 0), "devices") == number(json_array_get(rows, 0), "replicas"));
    CHECK(number(json_array_get(rows, 2), "devices") == 4 * number(json_array_get(rows, 2), "replicas"));
    CHECK(number(json_array_get(rows, 2), "replicas") <= number(json_array_get(rows, 0), "replicas"));
    CHECK(number(json_array_get(rows, 2), "dollars_per_hour") == 4.02 * number(json_array_get(rows, 2), "devices"));
    json_decref(root);
    CHECK(clsa("plan --slo-ttft 9 --workload rag --requests 3 --device L40S --method dense --cache-tokens 1K") == 0);
    CHECK_MESSAGE(strstr(output, "does not fit") && strstr(output, "cache of 1024"), "%s", output);
    CHECK(clsa("plan --slo-ttft 9 --workload rag --requests 3 --device A100 --length-factor 16 --method dense,clsa") ==
          0);
    CHECK_MESSAGE(strstr(output, "does not fit: weights 6.12 GB + KV ") && strstr(output, "requests of at most"), "%s",
                  output);
    CHECK(clsa("plan --slo-ttft 0.001 --workload rag --requests 3 --method clsa") == 0);
    CHECK_MESSAGE(strstr(output, "cannot be met: TTFT P95 is at least"), "%s", output);
}

// Rows do not depend on threads, nor on the shards and files through which they came.
static void same_rows(void)
{
    static const char sweep[] = "--method clsa,token --sweep top_k=64..256 --sweep rate=2,8 --json";
    json_t *root, *once;
    rows_of(&root, "%s --threads 1 %s", sweep);
    once = root;
    json_t *rows = rows_of(&root, "%s --threads 7 %s", sweep);
    CHECK(json_array_size(rows) == 12 && json_equal(root, once));
    CHECK(strcmp(string(json_array_get(rows, 11), "top-k"), "256") == 0 &&
          strcmp(string(json_array_get(rows, 11), "rate"), "8") == 0);
    json_decref(root);
    rows = rows_of(&root, "%s --shard 2/2 --resume b %s", sweep);
    CHECK(json_array_size(rows) == 6 && number(json_array_get(rows, 0), "row") == 1);
    json_decref(root);
    CHECK(clsa("plan merge b") == 0 && strstr(errors, "6 of 12 rows"));
    CHECK_MESSAGE(strstr(output, "bench-100m, reasoning: 60 requests; TTFT P95 <= 2 s; TPOT P95 <= 40 ms; least-load"),
                  "%.200s", output);    // as in each row's column, so not in the line above: the rate
    CHECK_MESSAGE(strstr(output, "\nreplicas: the fewest that keep the limits"), "%s", output);
    rows_of(&root, "%s --shard 1/2 --resume a %s", sweep);
    json_decref(root);
    CHECK(clsa("plan merge a b --out all --json") == 0);
    root = json_loads(output, 0, NULL);
    CHECK_MESSAGE(json_equal(root, once), "merged rows differ: %.300s", output);
    json_decref(root);
    CHECK(clsa("plan merge a b --html merged.html") == 0);
    read_into("merged.html", kept, sizeof kept);
    CHECK_MESSAGE(strstr(kept, "bench-100m, reasoning: 60 requests") && strstr(kept, "Cost, held"), "%.900s", kept);
    CHECK(clsa("plan merge a b --csv") == 0 && count(output, ',') > 10);
    strcpy(kept, output);
    char line[1024];
    snprintf(line, sizeof line, "%s %.*s --csv", small, (int)(strlen(sweep) - strlen(" --json")), sweep);
    CHECK_MESSAGE(clsa(line) == 0 && strcmp(output, kept) == 0, "merged CSV differs: %.300s", kept);
    expect_refused("plan merge a b --csv --json", "--csv|--json");

    // A file cut off anywhere is gone on from.
    read_into("all", kept, sizeof kept);
    write_file("all", kept, strlen(kept) - 1 - (size_t)check_range(0, (int32_t)(strlen(kept) / 2)));
    rows_of(&root, "%s --resume all %s", sweep);
    CHECK_MESSAGE(json_equal(root, once), "resumed rows differ: %.300s", output);
    json_decref(root);
    char before[sizeof kept / 16];
    read_into("all", before, sizeof before);
    rows_of(&root, "%s --resume all %s", sweep);
    read_into("all", kept, sizeof before);
    CHECK_MESSAGE(strcmp(before, kept) == 0, "finished rows were written again");
    json_decref(root);
    json_decref(once);
}

// A report says what was asked and what cannot be had, and draws no cost for that.
static void report(void)
{
    CHECK(clsa("plan --slo-ttft 1 --workload rag --requests 3 --method clsa,dense --html report.html") == 0);
    read_into("report.html", kept, sizeof kept);
    CHECK_MESSAGE(strstr(kept, "paper-4b, rag: 3 requests at ") && strstr(kept, "TTFT P95 &lt;= 1 s"), "%.900s", kept);
    CHECK_MESSAGE(strstr(kept, "dense on h100-sxm: cannot be met: TTFT P95") && strstr(kept, "\nreplicas: the fewest"),
                  "%s", kept);
    CHECK_MESSAGE(strstr(kept, ">-</text>") && !strstr(kept, ">0</text>"), "%s", kept);
}

// Rows of one calibration are not gone on with by another of the same name.
static void other_curves(const char *top)
{
    static const char ask[] = "plan --slo-ttft 2 --requests 20 --method clsa --calibration c.json --resume curves";
    char line[512];
    snprintf(line, sizeof line, "cp '%s/sim/calibrations/h100-sxm.json' %s/c.json", top, folder);
    CHECK(system(line) == 0 && clsa(ask) == 0 && clsa(ask) == 0);
    read_into("c.json", kept, sizeof kept);
    char *points = strstr(kept, "\"points\": ["), *digit = points ? strstr(points, "\n       0.") : NULL;
    CHECK(digit != NULL);
    if (digit) {    // of an efficiency
        digit += strlen("\n       0.");
        *digit = *digit == '9' ? '8' : (char)(*digit + 1);
        write_file("c.json", kept, strlen(kept));
        expect_refused(ask, "curves|device_hash");
    }
}

// Damaged files are refused in one line or read as what they still say; nothing crashes.
static void damaged(void)
{
    static char whole[1 << 16], broken[1 << 16];
    json_t *root;
    rows_of(&root, "%s --resume whole %s", "--method clsa --sweep rate=2,8 --json");
    json_decref(root);
    read_into("whole", whole, sizeof whole);
    size_t length = strlen(whole);
    for (int i = 0; i < 40; i++) {
        memcpy(broken, whole, length + 1);
        for (int change = check_range(1, 4); change > 0; change--) {
            broken[check_range(0, (int32_t)length - 1)] = (char)check_range(1, 255);
        }
        write_file("broken", broken, length);
        int status = clsa("plan merge broken --json");
        CHECK_MESSAGE(status == 0 || (status == 2 && strchr(errors, '\n') && !strchr(errors, '\n')[1]), "exit %d: %s",
                      status, errors);
    }
}

// Ctrl-C keeps what is finished.
static void interrupted(void)
{
    char line[1024];
    snprintf(line, sizeof line,
             "cd %s && exec timeout --foreground -s INT 1 %s plan --slo-ttft 2 --method clsa --requests 20000 --sweep "
             "rate=1..200+1 "
             "--resume part --threads 2 >stdout 2>stderr </dev/null",
             folder, getenv("CLSA_BINARY"));
    int status = cli_ended(system(line));
    CHECK_MESSAGE(status >= 0 && strstr(errors, "interrupted"), "%s", errors);
    read_into("part", kept, sizeof kept);
    int lines = 0;
    for (const char *at = kept; (at = strchr(at, '\n')); at++) {
        lines++;
    }
    int shown = 0;
    for (const char *at = output; (at = strstr(at, "clsa ")); at++) {
        shown += at > output && at[-1] == ' ';
    }
    CHECK_MESSAGE(lines > 0 && strncmp(kept, "{\"clsa_plan\":1", 14) == 0, "%.100s", kept);
    CHECK_MESSAGE(shown >= lines - 1, "%d rows shown, %d kept", shown, lines - 1);
}

static void wrong_input(void)
{
    expect_refused("plan", "--slo-ttft|--slo-tpot");
    expect_refused("plan --slo-ttft 1 --csv --json", "--csv|--json");
    expect_refused("plan --slo-ttft 1 --method magic", "--method|magic|clsa");
    expect_refused("plan --slo-ttft 1 --model nosuch", "--model nosuch|paper-4b|config.json");
    expect_refused("plan --slo-ttft 1 --device warp", "--device|warp|H100-SXM");
    expect_refused("plan --slo-ttft 1 --workload absent", "--workload|absent|reasoning");
    expect_refused("plan --slo-ttft 1 --router magic", "magic|round-robin");
    expect_refused("plan --slo-ttft 1 --sweep magic=1", "--sweep|magic|top-k");
    expect_refused("plan --slo-ttft 1 --sweep top-k", "--sweep top-k|NAME=VALUES");
    expect_refused("plan --slo-ttft 1 --sweep top-k=1..x", "--sweep|top-k|x");
    expect_refused("plan --slo-ttft 1 --sweep top-k=9..3", "--sweep|ends before");
    expect_refused("plan --slo-ttft 1 --sweep top-k=1..4096+1", "--sweep|256");
    expect_refused("plan --slo-ttft 1 --sweep top-k=0", "--sweep|top-k|from 1");
    expect_refused("plan --slo-ttft 1 --sweep method=clsa,nothing", "nothing");
    expect_refused("plan --slo-ttft 1 --price H100", "--price H100|DOLLARS");
    expect_refused("plan --slo-ttft 1 --price warp=3", "--price|warp");
    expect_refused("plan --slo-ttft 1 --shard 3/2", "--shard 3/2|I/N");
    expect_refused("plan --slo-ttft 1 --workload paper --rate 3", "rate");
    expect_refused("plan --slo-ttft 1 --slo-ttft-percentile 101", "101|100");
    expect_refused("plan --slo-ttft 1 --tp 8", "8 devices|1, 2, 4, 20");
    expect_refused("plan --slo-ttft 1 --resume /dev/zero", "/dev/zero|expected a file");    // which never ends
    expect_refused("plan merge /dev/zero", "/dev/zero|expected a file");
    expect_refused("plan merge", "FILE");
    expect_refused("plan merge absent", "absent");
    write_file("other", "{\"clsa_plan\":1}\n", 16);
    expect_refused("plan merge other", "other|line 1");
    expect_refused("plan --slo-ttft 1 --resume other", "--resume|other|line 1");
    write_file("other", "nonsense\n", 9);
    expect_refused("plan --slo-ttft 1 --resume other", "--resume|other|line 1");
    CHECK(clsa("plan --slo-ttft 1 --requests 20 --method clsa --resume mine") == 0);
    expect_refused("plan --slo-ttft 2 --requests 20 --method clsa --resume mine", "mine|slo_ttft_s");
    read_into("mine", kept, sizeof kept);
    strcat(strcpy(output, kept), "{\"row\":7,\"verdict\":\"meets\"}\n");
    write_file("mine", output, strlen(output));
    expect_refused("plan merge mine", "mine|line 3|row");
    CHECK(clsa("plan --help") == 0 && strstr(output, "--sweep") && strstr(output, "--slo-ttft-percentile"));
}

int main(void)
{
    char top[256];    // tests run from the top of the checkout
    check_begin();
    CHECK(getcwd(top, sizeof top) != NULL);
    if (!cli_open()) {
        return check_skip("CLSA_BINARY does not name the program");
    }
    verdicts();
    spreadsheet();
    same_rows();
    report();
    other_curves(top);
    damaged();
    interrupted();
    wrong_input();
    cli_close();
    return check_end();
}
