// tests/test_sim_cli.c - clsa sim and clsa devices as their users meet them: foreign models, verdicts, wrong input.
#include <stdlib.h>
#include <unistd.h>

#include "tests/cli_json.h"

static void write_file(const char *name, const char *text)
{
    char path[256];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    FILE *stream = fopen(path, "w");
    CHECK(stream && fputs(text, stream) >= 0 && fclose(stream) == 0);
}

static bool remove_file(const char *name)
{
    char path[256];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    return remove(path) == 0;
}

// A device that was measured is predicted as it was, without being asked; others by its curves. Steps as tests/bench
// has them of an H100: 25.6 and 2.82 ms.
static void shipped(void)
{
    json_t *root,
        *rows = json_rows(&root,
                          "sim --model paper-4b --method dense,clsa --device H100,B200 --context 128K --batch 8 "
                          "--output 100 --json",
                          "sim");
    CHECK(json_array_size(rows) == 4);
    double dense = number(json_array_get(rows, 0), "first_decode_step_ms");
    double clsa_ms = number(json_array_get(rows, 2), "first_decode_step_ms");
    CHECK_MESSAGE(fabs(dense / 25.6 - 1) <= 0.08 && fabs(clsa_ms / 2.82 - 1) <= 0.08, "dense %g ms, clsa %g ms", dense,
                  clsa_ms);
    CHECK(strcmp(string(json_array_get(rows, 0), "provenance"), "datasheet") != 0);
    CHECK(strcmp(string(json_array_get(rows, 1), "provenance"), "extrapolated") == 0);
    // Error bars: narrower where it was measured.
    for (size_t i = 0; i < 4; i += 2) {
        double own = number(json_array_get(rows, i), "decode_off_percent");
        double borrowed = number(json_array_get(rows, i + 1), "decode_off_percent");
        CHECK_MESSAGE(own > 0 && own < borrowed && borrowed < 100, "+-%g%%, borrowed +-%g%%", own, borrowed);
    }
    json_decref(root);
    CHECK(clsa("sim --model paper-4b --method clsa --device H100 --context 32K --batch 8") == 0);
    CHECK_MESSAGE(strstr(output, "calibrated by sim/calibrations/h100-sxm.json"), "%s", output);
    CHECK(clsa("sim --model paper-4b --method clsa --device L40S --context 1K") == 0);
    CHECK_MESSAGE(strstr(output, "calibrated by") && strstr(output, "extrapolated"), "%s", output);
    CHECK(clsa("sim --model paper-4b --method clsa --device L40S --context 1K --calibration none") == 0);
    CHECK(!strstr(output, "calibrated by"));
    CHECK(clsa("sim --model tiny --method clsa --device host --context 1K") == 0);    // a GPU says nothing of it
    CHECK(!strstr(output, "calibrated by"));
}

static void presets(void)
{
    json_t *root,
        *rows = json_rows(&root,
                          "sim --model paper-4b --method dense,clsa --device H100,b200 --context 128K --batch 8 "
                          "--output 100 --stages --json --calibration none",
                          "sim");
    CHECK(json_array_size(rows) == 4);
    double dense = number(json_array_get(rows, 0), "first_decode_step_ms");
    double clsa_ms = number(json_array_get(rows, 2), "first_decode_step_ms");
    CHECK_MESSAGE(dense > 20 && dense < 24 && clsa_ms > 1.8 && clsa_ms < 2.6, "dense %g ms, clsa %g ms", dense,
                  clsa_ms);
    CHECK(number(json_array_get(rows, 1), "prefill_s") < number(json_array_get(rows, 0), "prefill_s"));
    CHECK(strcmp(string(json_array_get(rows, 0), "device"), "H100-SXM") == 0);
    CHECK(strcmp(string(json_array_get(rows, 0), "provenance"), "datasheet") == 0);
    CHECK(strncmp(string(json_array_get(rows, 0), "bound_by"), "attention ", 10) == 0);
    double ms = 0;
    size_t i;
    json_t *row;
    json_array_foreach(json_object_get(root, "stages"), i, row)
    {
        if (strcmp(string(row, "method"), "dense") == 0 && strcmp(string(row, "device"), "H100-SXM") == 0 &&
            strcmp(string(row, "phase"), "decode") == 0) {
            ms += number(row, "ms");
        }
    }
    CHECK_MESSAGE(fabs(ms - dense) < 1e-6 * dense, "stages add up to %g ms, the step is %g ms", ms, dense);
    json_decref(root);
}

static void verdicts(void)
{
    json_t *root, *rows = json_rows(&root, "sim --method dense --device H100 --context 128K --batch 32 --json", "sim");
    const char *verdict = string(json_array_get(rows, 0), "verdict");
    CHECK_MESSAGE(strstr(verdict, "does not fit: weights 6.12") && strstr(verdict, "9 sequences fit"), "%s", verdict);
    CHECK(number(json_array_get(rows, 0), "max_sequences") == 9);
    json_decref(root);
    rows = json_rows(&root, "sim --method dense --device H100 --context 2M --output 1 --json", "sim");
    verdict = string(json_array_get(rows, 0), "verdict");
    CHECK_MESSAGE(strstr(verdict, "does not fit") && strstr(verdict, "one sequence of 12"), "%s", verdict);
    CHECK(json_is_null(json_object_get(json_array_get(rows, 0), "tpot_ms")));    // one token: no decode step
    json_decref(root);
    rows = json_rows(&root, "sim --method clsa --device H100 --context 128K --batch 32 --json", "sim");
    CHECK(strncmp(string(json_array_get(rows, 0), "verdict"), "fits: ", 6) == 0);
    json_decref(root);
}

static const char llama[] =
    "{\"architectures\": [\"LlamaForCausalLM\"], \"model_type\": \"llama\", \"hidden_size\": 4096,"
    " \"intermediate_size\": 14336, \"num_hidden_layers\": 32, \"num_attention_heads\": 32, \"num_key_value_heads\": 8,"
    " \"vocab_size\": 128256, \"rope_theta\": 500000.0, \"rms_norm_eps\": 1e-05, \"tie_word_embeddings\": false,"
    " \"torch_dtype\": \"bfloat16\"}";

static const char deepseek[] =
    "{\"architectures\": [\"DeepseekV32ForCausalLM\"], \"model_type\": \"deepseek_v32\", \"hidden_size\": 7168,"
    " \"intermediate_size\": 18432, \"moe_intermediate_size\": 2048, \"num_hidden_layers\": 61, "
    "\"num_attention_heads\": 128,"
    " \"num_key_value_heads\": 128, \"q_lora_rank\": 1536, \"kv_lora_rank\": 512, \"qk_nope_head_dim\": 128,"
    " \"qk_rope_head_dim\": 64, \"v_head_dim\": 128, \"n_routed_experts\": 256, \"n_shared_experts\": 1,"
    " \"num_experts_per_tok\": 8, \"first_k_dense_replace\": 3, \"index_n_heads\": 64, \"index_head_dim\": 128,"
    " \"index_topk\": 2048, \"vocab_size\": 129280, \"rope_theta\": 10000.0, \"rms_norm_eps\": 1e-06,"
    " \"tie_word_embeddings\": false, \"torch_dtype\": \"bfloat16\"}";

static void foreign_models(void)
{
    write_file("llama.json", llama);
    write_file("deepseek.json", deepseek);
    json_t *root,
        *rows = json_rows(&root, "sim --model llama.json --device H100 --context 8K --output 100 --json", "sim");
    const json_t *row = json_array_get(rows, 0);
    // 8.03 billion parameters of two bytes; 32 layers x 2 x 8 heads x 128 x 2 bytes of cache per token.
    CHECK(json_array_size(rows) == 1 && strcmp(string(row, "method"), "native") == 0);
    CHECK_MESSAGE(fabs(number(row, "weight_gb") / 16.06 - 1) < 0.01, "%g GB", number(row, "weight_gb"));
    CHECK_MESSAGE(fabs(number(row, "kv_gb_per_sequence") / (131072e-9 * (8192 + 128)) - 1) < 0.01, "%g GB",
                  number(row, "kv_gb_per_sequence"));
    CHECK(number(row, "first_decode_step_ms") > 1e3 * 15e9 / 3.35e12);
    json_decref(root);

    rows = json_rows(&root,
                     "sim --model deepseek.json --device B300 --method native --context 64K --batch 4 --stages --json",
                     "sim");
    row = json_array_get(rows, 0);
    CHECK_MESSAGE(fabs(number(row, "weight_gb") / 1342 - 1) < 0.03, "%g GB", number(row, "weight_gb"));
    CHECK(number(row, "max_sequences") == 0 && strstr(string(row, "verdict"), "weights") &&
          strstr(string(row, "verdict"), "alone"));
    bool scores = false;
    size_t i;
    json_t *stage;
    json_array_foreach(json_object_get(root, "stages"), i, stage)
    {
        scores = scores || strcmp(string(stage, "stage"), "index_score") == 0;
    }
    CHECK_MESSAGE(scores, "the indexer of DeepSeek-V3.2 is not priced");
    json_decref(root);

    CHECK(clsa("sim --model llama.json --method native,dense,clsa --device H100") == 0 && strstr(output, "TTFT"));
    CHECK(clsa("sim --model deepseek.json --method all --device MI300X --context 1K") == 0 && strstr(output, "native"));
}

// Several devices: their memory adds up, their links cost; and no throughput of what does not fit.
static void groups(void)
{
    json_t *root,
        *rows = json_rows(&root, "sim --device H100 --context 128K --batch 32 --method dense,clsa --json", "sim");
    CHECK(json_is_null(json_object_get(json_array_get(rows, 0), "throughput_tokens_per_s")));
    CHECK(json_is_null(json_object_get(json_array_get(rows, 0), "decode_tokens_per_s")));
    CHECK(strstr(string(json_array_get(rows, 0), "verdict"), "does not fit"));
    double clsa_alone = number(json_array_get(rows, 1), "decode_tokens_per_s");
    double clsa_gb = number(json_array_get(rows, 1), "weight_gb");
    json_decref(root);
    rows = json_rows(&root, "sim --device H100 --context 128K --batch 32 --method dense,clsa --tp 4 --stages --json",
                     "sim");
    CHECK(number(json_array_get(rows, 0), "throughput_tokens_per_s") > 0);
    CHECK(number(json_array_get(rows, 1), "weight_gb") < 0.26 * clsa_gb);
    CHECK(strstr(output, "\"communicate\""));
    json_decref(root);
    rows = json_rows(&root, "sim --device H100 --context 128K --batch 64 --method clsa --dp 2 --json", "sim");
    CHECK(fabs(number(json_array_get(rows, 0), "decode_tokens_per_s") - 2 * clsa_alone) < 1e-6 * clsa_alone);
    json_decref(root);
    rows = json_rows(&root, "sim --workload reasoning --requests 50 --tp 2 --replicas 3 --json", "serve");
    CHECK(number(json_array_get(rows, 0), "finished") == 50);
    json_decref(root);
    expect_refused("sim --device H100 --csv --json", "--csv|--json");
    expect_refused("sim --device H100 --csv --validate .", "--csv|--validate");
    expect_refused("sim --device B200 --csv --paper", "--csv|--paper");
    expect_refused("sim --paper --html report.html", "--html|--paper");
    expect_refused("sim --paper --positions", "--positions|--paper");
    expect_refused("sim --validate . --trace x.pftrace", "--trace|--validate");
    expect_refused("sim --device H100 --positions --stages", "--stages|--positions");
    expect_refused("sim --device H100 --per-row", "--per-row|--validate");
    expect_refused("sim --device H100 --configs .", "--configs|--validate");
    expect_refused("sim --workload reasoning --requests 5 --device H100 --csv --json", "--csv|--json");
    expect_refused("sim --device H100 --tp 3", "3 devices|1, 2, 4, 20");
    expect_refused("sim --workload reasoning --requests 5 --replicas 2 --timeline", "--timeline|--replicas");
    expect_refused("sim --workload reasoning --requests 5 --replicas 2 --router magic", "--router|magic");
}

// Published measurements, where they are at hand (CLSA_VALIDATION, or ../shared/validation beside the checkout): all of
// them, and errors that follow from their rows.
static void published(const char *top)
{
    const char *from = getenv("CLSA_VALIDATION");
    char line[2048], ask[1024], beside[512];
    json_t *root, *row;
    size_t i;
    snprintf(beside, sizeof beside, "%s/../shared/validation", top);
    from = from ? from : beside;
    if (access(from, R_OK) != 0) {
        printf("skipped: no published measurements in %s\n", from);
        return;
    }
    snprintf(ask, sizeof ask, "sim --validate '%s' --configs '%s/tests/data/published' --json", from, top);
    snprintf(line, sizeof line, "%s --per-row --calibration none", ask);
    json_t *rows = json_rows(&root, line, "validation");
    double counted = 0, streams = NAN;
    json_array_foreach(rows, i, row)
    {
        counted += number(row, "rows");
        bool h100 = strcmp(string(row, "device"), "H100-SXM") == 0 && strstr(string(row, "group"), "long, sglang");
        streams = h100 && strstr(string(row, "group"), "bfloat16") ? number(row, "median_ratio") : streams;
        if (strncmp(string(row, "group"), "DSA", 3) == 0) {    // few heads in whole tiles take longer, many do not
            bool few = strstr(string(row, "group"), "tp 8") != NULL;
            CHECK(few ? number(row, "tiles_median_ratio") > 1.5 * number(row, "median_ratio")
                      : number(row, "tiles_median_ratio") == number(row, "median_ratio"));
            CHECK(number(row, "least_ms") > 0);
        }
    }
    // A roofline is no slower than what reads from memory at full width, and not far below it.
    CHECK_MESSAGE(streams > 0.8 && streams <= 1, "H100 streams at %g of its roofline", streams);
    CHECK(counted == (double)json_array_size(json_object_get(root, "measurements")) && counted >= 1000);
    json_array_foreach(json_object_get(root, "measurements"), i, row)
    {
        double error = 100 * (number(row, "predicted_ms") / number(row, "published_ms") - 1);
        CHECK(fabs(number(row, "error_percent") - error) < 1e-6 * fabs(error) + 1e-6);
        CHECK(number(row, "predicted_ms") == number(row, "roofline_ms"));
    }
    CHECK(json_array_size(json_object_get(root, "published")) == 31);
    json_decref(root);
    // Unasked, with the curves that come with the program, and the bare roofline beside them.
    double calibrated = NAN, bare = NAN;
    rows = json_rows(&root, ask, "validation");
    json_array_foreach(rows, i, row)
    {
        bool h100 = strcmp(string(row, "device"), "H100-SXM") == 0 && strstr(string(row, "group"), "long, sglang");
        bool dense = h100 && strstr(string(row, "group"), "bfloat16");
        calibrated = dense ? number(row, "median_error_percent") : calibrated;
        if (strcmp(string(row, "group"), "DSA prefill module, DeepSeek-V3.2 full, tp 1") == 0) {
            double ratio = number(row, "median_ratio");    // a key that all heads share does not cost as one of five
            CHECK_MESSAGE(ratio > 0.6 && ratio < 1.4, "DSA's module at %g of what was measured", ratio);
        }
        bare = dense ? number(row, "bare_median_error_percent") : bare;
    }
    CHECK_MESSAGE(calibrated < bare, "calibrated %g%%, roofline %g%%", calibrated, bare);
    json_decref(root);
}

// A file of one's own, and files that are wrong.
static void validation(void)
{
    json_t *root;
    write_file("own.csv", "# ours\ngpu,engine,kernel,heads,kv_heads,head_dim,kv_dtype,batch,context,latency_ms\n"
                          "H100,x,\"y,z\",32,8,128,bfloat16,4,1000000,6\n");
    json_t *rows = json_rows(&root, "sim --validate . --per-row --json --calibration none", "measurements");
    double ms = 4.0 * 1000001 * 2 * 8 * 128 * 2 / 3.35e12 * 1e3 + 3e-3;
    CHECK_MESSAGE(fabs(number(json_array_get(rows, 0), "predicted_ms") - ms) < 1e-6 * ms, "%g ms, expected %g",
                  number(json_array_get(rows, 0), "predicted_ms"), ms);
    json_decref(root);
    write_file(
        "own.csv",
        "gpu,engine,kernel,heads,kv_heads,head_dim,kv_dtype,batch,context,latency_ms\nH100,x,y,32,8,128,bf16,4,1e,6\n");
    expect_refused("sim --validate .", "--validate|own.csv|line 2|context|number");
    write_file("own.csv",
               "gpu,engine,kernel,heads,kv_heads,head_dim,kv_dtype,batch,context,latency_ms\nH100,x,y,32,8,128\n");
    expect_refused("sim --validate .", "own.csv|line 2|10 fields");
    write_file("own.csv", "gpu,model,indexer,tp,isl,past,latency_ms\nH100,absent,full,1,10,10,1\n");
    expect_refused("sim --validate .", "absent.json");
    write_file("own.csv", "a,b\n1,2\n");
    expect_refused("sim --validate .", "own.csv|unknown columns");
    expect_refused("sim --validate absent", "--validate|absent");
    for (int change = 0; change < 30; change++) {    // damaged tables are refused in one line or predicted, never more
        char table[] = "gpu,engine,kernel,heads,kv_heads,head_dim,kv_dtype,batch,context,latency_ms\nH100,x,\"y,z\",32,"
                       "8,128,fp8,4,99,6\n";
        table[check_range(0, (int32_t)sizeof table - 2)] = (char)check_range(1, 255);
        write_file("own.csv", table);
        int status = clsa("sim --validate . --per-row");
        const char *newline = strchr(errors, '\n');
        CHECK_MESSAGE(status == 0 || (status == 2 && newline && !newline[1]), "exit %d of %s: %s", status, table,
                      errors);
    }
    CHECK(remove_file("own.csv"));
    expect_refused("sim --validate .", "holds no *.csv");
}

// The paper's experiment: its figures as published, ours by hand for the slow selection.
static void paper(void)
{
    json_t *root, *rows = json_rows(&root, "sim --paper --json", "paper");
    CHECK(json_array_size(rows) == 9);
    const json_t *row = json_array_get(rows, 8), *dense = json_array_get(rows, 6);
    CHECK(strcmp(string(row, "method"), "clsa") == 0 && number(row, "context") == 131072);
    CHECK(number(row, "published_decode_tokens_per_s") == 3276.8 &&
          fabs(number(row, "published_speedup") - 7.6) < 0.01);
    double step_ms = number(row, "decode_step_ms"), slow_ms = number(row, "slow_step_ms");
    CHECK_MESSAGE(slow_ms - step_ms > 2.5 && slow_ms - step_ms < 2.56, "%g ms, slow %g ms", step_ms, slow_ms);
    CHECK(fabs(number(row, "slow_speedup") - number(dense, "slow_step_ms") / slow_ms) < 1e-6);
    CHECK(number(row, "slow_end_to_end_tokens_per_s") < number(row, "end_to_end_tokens_per_s"));
    CHECK(number(dense, "slow_step_ms") == number(dense, "decode_step_ms") &&
          strstr(string(dense, "verdict"), "does not fit"));
    json_decref(root);
    expect_refused("sim --paper --device H100,B200", "--paper|one device");
}

// Positions, reports and simulated timelines.
static void analyses(void)
{
    json_t *root, *rows = json_rows(&root, "sim --positions --method dense,token --device H100 --context 100K --json",
                                    "positions");
    CHECK(json_array_size(rows) == 16);    // 1K, 2K, ... 64K, 100K, twice
    CHECK(number(json_array_get(rows, 7), "context") == 102400);
    CHECK(number(json_array_get(rows, 7), "decode_us_per_token") >
          number(json_array_get(rows, 15), "decode_us_per_token"));
    const json_t *overtakes = json_object_get(root, "index_overtakes"), *crossings = json_object_get(root, "crossings");
    CHECK(json_array_size(overtakes) == 2 && json_array_size(crossings) == 2);
    CHECK(number(json_array_get(crossings, 1), "from_context") > 1024);
    // The longer the context, the fewer fit and the less comes out; a shared index makes room and saves time.
    const json_t *full = json_object_get(root, "full_batches"), *sharing = json_object_get(root, "index_sharing");
    CHECK(json_array_size(full) == 16 && json_array_size(sharing) == 6);
    for (size_t at = 1; at < 8; at++) {
        const json_t *shorter = json_array_get(full, at - 1), *longer = json_array_get(full, at);
        CHECK(number(longer, "max_sequences") < number(shorter, "max_sequences"));
        CHECK(number(longer, "tokens_per_s") < number(shorter, "tokens_per_s"));
    }
    for (size_t at = 1; at < 6; at++) {
        const json_t *fewer = json_array_get(sharing, at), *more = json_array_get(sharing, at - 1);
        CHECK(number(fewer, "index_every") == 2 * number(more, "index_every"));
        CHECK(number(fewer, "decode_us_per_token") < number(more, "decode_us_per_token"));
        CHECK(number(fewer, "max_sequences") >= number(more, "max_sequences"));
    }
    json_decref(root);
    expect_refused("sim --positions --device H100 --tp 2", "--positions|--tp");
    // As many fit as without --positions, also on a device where an engine was seen to take more than weights and
    // cache.
    for (int method = 0; method < 2; method++) {
        char line[128];
        const char *const work = "--device H200 --context 128K --chunk 8192 --output 1 --json";
        snprintf(line, sizeof line, "sim --method %s %s", method ? "dense" : "yoco", work);
        rows = json_rows(&root, line, "sim");
        double fit = number(json_array_get(rows, 0), "max_sequences");
        json_decref(root);
        snprintf(line, sizeof line, "sim --positions --method %s %s", method ? "dense" : "yoco", work);
        rows = json_rows(&root, line, "full_batches");
        CHECK(fit > 1 && number(json_array_get(rows, 7), "max_sequences") == fit);
        json_decref(root);
    }

    CHECK(
        clsa(
            "sim --method dense,clsa --device H100 --context 10K --batch 3 --html report.html --trace steps.pftrace") ==
        0);
    CHECK(clsa("trace check steps.pftrace") == 0);
    rows = json_rows(&root, "trace summary steps.pftrace --json", "stages");
    size_t i;
    json_t *row;
    double traced_ms = NAN;
    json_array_foreach(rows, i, row)
    {
        bool step = strcmp(string(row, "stage"), "step") == 0 && strcmp(string(row, "phase"), "prefill") == 0;
        traced_ms = step && strcmp(string(row, "method"), "clsa") == 0 ? number(row, "total_ms") : traced_ms;
    }
    json_decref(root);
    rows = json_rows(&root, "sim --method clsa --device H100 --context 10K --batch 3 --json", "sim");
    double prefill_ms = 1e3 * number(json_array_get(rows, 0), "prefill_s");
    CHECK_MESSAGE(fabs(traced_ms - prefill_ms) < 1e-4 * prefill_ms, "prefill of %g ms is traced as %g", prefill_ms,
                  traced_ms);
    json_decref(root);
    read_into("report.html", output, sizeof output);
    CHECK(strstr(output, "<svg") && strstr(output, "Where the time goes") && !strstr(output, "http"));
    CHECK(strstr(output, "paper-4b: 3 x (10240 prompt + 256") && strstr(output, "\nA stage takes its floor"));
    CHECK(strstr(output, "Throughput against speed") && strstr(output, "Keys and values against concurrency"));
    CHECK(strstr(output, "Roofline: ") && strstr(output, "ceiling, bf16"));
    CHECK(clsa("compare --model tiny --methods dense,clsa --text abc --context 64 --output 4 --html report.html") == 0);
    read_into("report.html", output, sizeof output);
    CHECK(strstr(output, "Measured against simulated") && strstr(output, "<svg") && !strstr(output, "http"));
    CHECK(strstr(output, "tiny on ") && strstr(output, "context 64, output 4") && strstr(output, "agreement: equal"));

    CHECK(clsa("sim --workload reasoning --requests 40 --method clsa --html report.html --trace service.pftrace") == 0);
    CHECK(clsa("trace check service.pftrace") == 0);
    rows = json_rows(&root, "trace info service.pftrace --json", "sources");
    CHECK(number(json_array_get(rows, 0), "requests") == 40 && number(json_array_get(rows, 0), "counters") > 4);
    CHECK(strcmp(string(json_array_get(rows, 0), "backend"), "simulated") == 0);
    json_decref(root);
    read_into("report.html", output, sizeof output);
    CHECK(strstr(output, "Sequences that run") && strstr(output, "</html>"));
    CHECK(strstr(output, "Step times of paper-4b as calibrated by sim/calibrations/"));
    expect_refused("sim --workload reasoning --requests 5 --replicas 2 --trace x.pftrace", "--trace|--replicas");
    CHECK(clsa("sim --device H100 --html absent/report.html") != 0 && strstr(errors, "absent/report.html"));
}

// Ctrl-C leaves a whole trace, and nothing half-written.
static void interrupted(void)
{
    char line[1024];
    snprintf(line, sizeof line,
             "cd %s && exec timeout --foreground --preserve-status -s INT 2 %s sim --workload reasoning "
             "--requests 100000 --every-step --trace late.pftrace >stdout 2>stderr </dev/null",
             folder, getenv("CLSA_BINARY"));
    CHECK(cli_ended(system(line)) == 130);
    CHECK_MESSAGE(strstr(errors, "interrupted") && !output[0], "%s%s", errors, output);
    CHECK(clsa("trace check late.pftrace") == 0);
    snprintf(line, sizeof line, "ls -A %s | grep part", folder);
    CHECK(system(line) != 0);
}

static void wrong_input(void)
{
    expect_refused("sim --device warp-drive", "--device|warp-drive|H100-SXM|host");
    expect_refused("sim --device H100,", "--device|names");
    expect_refused("sim --device H100 --batch -1", "--batch -1|from 1");
    expect_refused("sim --device H100 --context 0", "--context 0");
    expect_refused("sim --device H100 --output 0", "--output 0");
    expect_refused("sim --device H100 --top-k 0", "--top-k 0");
    expect_refused("sim --device H100 --method magic", "--method|magic|clsa");
    expect_refused("sim --device H100 --method native", "native|paper-4b");
    expect_refused("sim --device H100 --model no-such-file", "no-such-file|paper-4b");
    expect_refused("sim --device H100 --model llama.json --method native --top-k 64", "native|config");
    expect_refused("sim --device H100 --context 16M --chunk 1", "--chunk 1|steps");
    expect_refused("sim --device H100 --model .", "config.json");
    expect_refused("sim --device H100 --model nosuch", "--model nosuch|paper-4b|demo|config.json");
    expect_refused("sim --device H100 --model nosuch --workload rag", "--model nosuch|paper-4b|config.json");
    write_file("broken.json", "{\"hidden_size\": -4}");
    expect_refused("sim --device H100 --model broken.json", "broken.json");
    write_file("devices.json", "{\"devices\": [{\"name\": \"mine\", \"bytes_per_s\": 3}]}");
    expect_refused("sim --devices devices.json --device mine", "devices.json|mine|bytes_per_s");
    expect_refused("sim --devices absent.json --device mine", "absent.json");
    expect_refused("devices --threads -3", "--threads -3");
    expect_refused("devices --devices devices.json", "mine");
}

static void own_devices(void)
{
    write_file("devices.json",
               "{\"devices\": [{\"name\": \"mine\", \"bytes_per_s\": {\"value\": 1e12, \"provenance\": \"measured\","
               " \"source\": \"a stream\"}, \"flops_per_s\": {\"bf16\": {\"value\": 1e14, \"provenance\": \"measured\","
               " \"source\": \"a product\"}}}]}");
    json_t *root, *rows = json_rows(&root, "sim --devices devices.json --device MINE --method clsa --json", "sim");
    const json_t *row = json_array_get(rows, 0);
    CHECK(strcmp(string(row, "provenance"), "measured") == 0);
    CHECK(json_is_null(json_object_get(row, "max_sequences")) && strstr(string(row, "verdict"), "unknown"));
    json_decref(root);
    expect_refused("sim --devices devices.json --device mine --method clsa --weight-dtype f32", "mine|f32");
}

static void devices(void)
{
    json_t *root, *rows = json_rows(&root, "devices --sources --json", "devices");
    size_t i;
    json_t *row;
    bool h100 = false, cuda = false;
    json_array_foreach(rows, i, row)
    {
        h100 = h100 || (strcmp(string(row, "device"), "H100-SXM") == 0 && number(row, "gb_per_s") == 3350);
    }
    json_array_foreach(json_object_get(root, "sources"), i, row)
    {
        CHECK(string(row, "source")[0] && string(row, "provenance")[0] && number(row, "value") > 0);
    }
    json_array_foreach(json_object_get(root, "backends"), i, row)
    {
        bool yes = strcmp(string(row, "available"), "yes") == 0;
        CHECK_MESSAGE(yes || string(row, "why")[0], "%s: unavailable without a reason", string(row, "backend"));
        CHECK(yes || strcmp(string(row, "backend"), "cuda") == 0);
        cuda = cuda || strcmp(string(row, "backend"), "cuda") == 0;
    }
    CHECK(h100 && cuda && json_array_size(json_object_get(root, "host")) > 5);
    json_decref(root);
    CHECK(clsa("devices --threads 1") == 0 && strstr(output, "read, memory") && strstr(output, "MI300X"));
}

int main(void)
{
    check_begin();
    if (!cli_open()) {
        return check_skip("CLSA_BINARY does not name the program");
    }
    char top[256];    // tests run from the top of the checkout
    CHECK(getcwd(top, sizeof top) != NULL);
    presets();
    shipped();
    verdicts();
    foreign_models();
    groups();
    published(top);
    validation();
    paper();
    analyses();
    interrupted();
    wrong_input();
    own_devices();
    devices();
    cli_close();
    return check_end();
}
