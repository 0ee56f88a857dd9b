// tests/test_tui_controls.c - what is typed and written: lines, scripts, commands, settings, exports, recordings.
#include <errno.h>
#include <jansson.h>
#include <sys/stat.h>
#include <unistd.h>

#include "engine/status.h"
#include "tests/check.h"
#include "tests/tui_stream.h"
#include "traces/trace.h"
#include "tui/commands.h"
#include "tui/export.h"
#include "tui/record.h"
#include "tui/script.h"
#include "tui/settings.h"
#include "tui/theme.h"

static char folder[] = "/tmp/clsa-controls-XXXXXX";

static char *path_of(const char *name)
{
    static char path[128];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    return path;
}

static char *read_all(const char *path)
{
    char *text = calloc(1, 1 << 22);
    FILE *file = fopen(path, "r");
    CHECK_MESSAGE(file != NULL, "%s is not there", path);
    if (file && text) {
        text[fread(text, 1, (1 << 22) - 1, file)] = 0;
        fclose(file);
    }
    return text;
}

static struct request_to_owner press(struct ui *ui, const struct state *state, const char *script)
{
    struct request_to_owner request = {.command = COMMAND_NONE};
    CHECK(script_check(script) == 0);
    while (*script) {
        request = ui_key(ui, state, script_next(&script));
    }
    return request;
}

static void test_input(void)
{
    struct input input;
    input_begin(&input, INPUT_FILTER, "ab");
    CHECK(input_key(&input, 'd') == INPUT_TYPED && input_key(&input, KEY_ARROW_LEFT) == INPUT_TYPED);
    input_key(&input, 'c');
    CHECK_MESSAGE(strcmp(input.text, "abcd") == 0 && input.cursor == 3, "typed %s", input.text);
    input_key(&input, KEY_ERASE);
    input_key(&input, KEY_REMOVE);
    CHECK(strcmp(input.text, "ab") == 0 && input_key(&input, 300) == INPUT_IGNORED);
    CHECK(input_key(&input, 'U' - '@') == INPUT_TYPED && input.length == 0);
    CHECK(input_key(&input, KEY_ERASE) == INPUT_CANCELLED && input_key(&input, KEY_RETURN) == INPUT_DONE);
    for (int32_t i = 0; i < 20000; i++) {    // whatever is pressed, it stays a line with its cursor inside
        static const int32_t keys[] = {KEY_ERASE,       KEY_REMOVE,   KEY_ARROW_LEFT,
                                       KEY_ARROW_RIGHT, KEY_TO_BEGIN, KEY_TO_END};
        input_key(&input, check_range(0, 2) == 0 ? keys[check_range(0, 5)] : check_range(' ', '~'));
        CHECK(input.length == (int32_t)strlen(input.text) && input.cursor >= 0 && input.cursor <= input.length);
        CHECK(input.length < INPUT_BYTES);
    }
    const char *script = "a<Right><lt>";
    CHECK(script_next(&script) == 'a' && script_next(&script) == KEY_ARROW_RIGHT && script_next(&script) == '<');
    CHECK(*script == 0 && script_next(&script) == KEY_NONE);
    CHECK(script_check("<Nobody>") == -EINVAL && script_check("<") == -EINVAL && script_check("") == 0);
}

static void test_commands(const struct state *state)
{
    struct ui ui = ui_default();
    struct request_to_owner request = press(&ui, state, ":view timeline<Enter>");
    CHECK(ui.view == VIEW_TIMELINE && request.command == COMMAND_NONE && ui.message[0] == 0);
    press(&ui, state, ":v r<Tab>");    // routing, requests and roofline begin so
    CHECK_MESSAGE(strcmp(ui.input.text, "v r") == 0 && strstr(ui.message, "roofline"), "\"%s\"", ui.input.text);
    press(&ui, state, "oo<Tab><Enter>");
    CHECK(ui.view == VIEW_ROOFLINE);
    press(&ui, state, ":bas<Tab>");    // not batch
    CHECK_MESSAGE(strcmp(ui.input.text, "baseline ") == 0, "completed to \"%s\"", ui.input.text);
    press(&ui, state, "bl<Tab><Enter>");
    CHECK(ui_baseline(&ui, state) == state_find_method(state, "block"));
    request = press(&ui, state, ":method clsa<Enter>");
    CHECK(request.command == COMMAND_METHOD && strcmp(request.method, "clsa") == 0 && ui.pinned == 0);
    request = press(&ui, state, ":method all<Enter>");
    CHECK(request.command == COMMAND_METHOD && request.method[0] == 0 && ui.pinned == -1);
    press(&ui, state, ":phase prefill<Enter>:rate 20<Enter>:theme light<Enter>:step 7<Enter>");
    CHECK(ui.phase == PHASE_PREFILL && ui_refresh_hz[ui.refresh] == 20 && ui.theme == theme_find("light"));
    CHECK(ui.view == VIEW_TIMELINE && timeline_look_step(&ui.timeline, state_timeline(state))->number == 7);
    request = press(&ui, state, ":export some.csv<Enter>");
    CHECK(request.command == COMMAND_EXPORT && strcmp(request.text, "some.csv") == 0);
    CHECK(press(&ui, state, "r").command == COMMAND_RECORD);
    static const char *const steering[] = {"]", "[", "}", "{", ")", "(", "i", ":k 4<Enter>", ":device cpu<Enter>"};
    for (size_t i = 0; i < sizeof steering / sizeof steering[0]; i++) {    // where no engine runs, keys say so
        ui.message[0] = 0;
        CHECK_MESSAGE(press(&ui, state, steering[i]).command == COMMAND_NONE && ui.message[0], "%s is silent",
                      steering[i]);
    }
    ui.live = true;
    CHECK(press(&ui, state, ")").command == COMMAND_CONTEXT_UP &&
          press(&ui, state, "i").command == COMMAND_INDEX_SHARING);
    request = press(&ui, state, ":index-every 4<Enter>");
    CHECK(request.command == COMMAND_ENGINE && strcmp(request.text, "index-every 4") == 0);
    ui.live = false;
    CHECK(press(&ui, state, ":save<Enter>").command == COMMAND_SAVE_SETTINGS);
    static const char *const wrong[] = {":nothing<Enter>", ":view<Enter>", ":view nothing<Enter>", ":rate 7<Enter>",
                                        ":method nobody<Enter>", ":step 99999999<Enter>", ":theme mud<Enter>"};
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
        CHECK_MESSAGE(press(&ui, state, wrong[i]).command == COMMAND_NONE && ui.message[0], "%s is taken", wrong[i]);
    }
    press(&ui, state, ":quit<Esc>");
    CHECK(!ui.quit);
    press(&ui, state, ":q<Enter>");
    CHECK(ui.quit);
}

static void test_settings(void)
{
    struct settings written = settings_default(), got = settings_default();
    char *path = path_of("deep/er/top.conf");
    CHECK(settings_read(&got, path) == 0 && memcmp(&got, &written, sizeof got) == 0);    // none yet
    written.view = VIEW_WHATIF;
    written.phase = PHASE_PREFILL;
    written.refresh = 0;
    written.theme = 2;
    written.ascii = true;
    written.mouse = false;
    written.no_braille = true;
    CHECK(settings_write(&written, path) == 0 && settings_read(&got, path) == 0);
    CHECK(got.view == written.view && got.phase == written.phase && got.refresh == 0 && got.theme == 2 && got.ascii &&
          !got.mouse && got.no_braille);
    static const char *const wrong[] = {"view = nothing", "ascii = maybe", "colour = red", "rate 10", "rate = 10 20"};
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
        FILE *file = fopen(path, "w");
        fprintf(file, "# fine\n\nview = stages\n%s\n", wrong[i]);
        fclose(file);
        CHECK_MESSAGE(settings_read(&got, path) == -EINVAL && strstr(status_text(), "line 4"), "%s: %s", wrong[i],
                      status_text());
        CHECK(got.view == VIEW_STAGES);
    }
    setenv("XDG_CONFIG_HOME", "/somewhere", 1);
    char place[64];
    CHECK(settings_path(place, sizeof place) == 0 && strcmp(place, "/somewhere/clsa/top.conf") == 0);
    unsetenv("XDG_CONFIG_HOME");
    setenv("HOME", "/home/me", 1);
    CHECK(settings_path(place, sizeof place) == 0 && strcmp(place, "/home/me/.config/clsa/top.conf") == 0);
}

// Every view: JSON that parses, CSV whose lines have equally many fields, text as it was.
static void test_export(const struct state *state)
{
    struct ui ui = ui_default();
    CHECK(whatif_open(&ui.whatif, NULL) == 0);
    for (int view = 0; view < VIEW_COUNT; view++) {
        json_error_t error;
        ui.view = (enum view)view;
        CHECK(export_view(path_of("view.json"), state, &ui, "") == 0);
        json_t *rows = json_load_file(path_of("view.json"), 0, &error);
        CHECK_MESSAGE(json_is_array(rows), "%s: %s", view_name(ui.view), error.text);
        CHECK((json_array_size(rows) > 0) == (view != VIEW_ROUTING));
        if (view != VIEW_WHATIF) {
            CHECK(export_view(path_of("view.csv"), state, &ui, "") == 0);
            char *text = read_all(path_of("view.csv"));
            int32_t commas = 0, first = -1;
            size_t lines = 0;
            for (char *byte = text; *byte; byte++) {
                commas += *byte == ',';
                if (*byte == '\n') {
                    first = first < 0 ? commas : first;
                    CHECK(commas == first);
                    commas = 0;
                    lines++;
                }
            }
            CHECK(lines == (json_array_size(rows) > 0 ? json_array_size(rows) + 1 : 0));
            free(text);
        }
        json_decref(rows);
    }
    ui.view = VIEW_COMPARE;
    CHECK(export_view(path_of("view.json"), state, &ui, "") == 0);
    json_t *rows = json_load_file(path_of("view.json"), 0, NULL);
    struct phase_summary decode;
    state_phase(state, 0, PHASE_DECODE, &decode);
    double rate = json_number_value(json_object_get(json_array_get(rows, 0), "decode_tokens_per_s"));
    CHECK(fabs(rate - decode.tokens_per_s) <= 1e-9 * rate);
    json_decref(rows);
    CHECK(export_view(path_of("view.txt"), state, &ui, "one\ntwo\n") == 0);
    char *text = read_all(path_of("view.txt"));
    CHECK(strcmp(text, "one\ntwo\n") == 0);
    free(text);
    ui.view = VIEW_WHATIF;
    CHECK(export_view(path_of("view.csv"), state, &ui, "") == -EINVAL);
    CHECK(export_view(path_of("view"), state, &ui, "") == -EINVAL);
    CHECK(export_view("/nowhere/at/all.txt", state, &ui, "") < 0);
    whatif_close(ui.whatif);
}

struct counted {
    int64_t sources, stages, steps, first_step, last_step;
};

static void count_source(void *user, const struct sample_source *source)
{
    (void)source;
    ((struct counted *)user)->sources++;
}

static void count_stage(void *user, const struct stage_sample *sample)
{
    (void)sample;
    ((struct counted *)user)->stages++;
}

static void count_step(void *user, const struct step_sample *sample)
{
    struct counted *counted = user;
    counted->first_step = counted->steps++ == 0 ? sample->step : counted->first_step;
    counted->last_step = sample->step;
}

static void ignore_request(void *user, const struct request_sample *sample)
{
    (void)user, (void)sample;
}

static void ignore_counter(void *user, const struct counter_sample *sample)
{
    (void)user, (void)sample;
}

static void step_of(const struct sample_sink *sink, int64_t number, int32_t from, int32_t to)
{
    for (int32_t i = from; i < to; i++) {
        struct stage_sample stage = {.source = 1, .step = number, .stage = STAGE_FFN, .layer = i,
                                     .begin_ns = 1000 * number + 10 * i, .duration_ns = 10};
        sink->stage(sink->user, &stage);
    }
    if (to == 5) {
        struct step_sample step = {.source = 1, .step = number, .begin_ns = 1000 * number, .duration_ns = 60};
        sink->step(sink->user, &step);
    }
}

// A recording holds whole steps only: it begins behind the one under way and ends with the one under way.
static void test_recorder(void)
{
    struct counted passed = {0}, read = {0};
    struct sample_sink to = {.user = &passed, .source = count_source, .stage = count_stage, .step = count_step,
                             .request = ignore_request, .counter = ignore_counter};
    struct sample_sink from_file = {.user = &read, .source = count_source, .stage = count_stage, .step = count_step};
    struct recorder *recorder;
    struct sample_source source = {.id = 1, .n_layers = 5};
    CHECK(recorder_open(&recorder, &to) == 0);
    struct sample_sink sink = recorder_sink(recorder);
    sink.source(sink.user, &source);
    step_of(&sink, 1, 0, 5);
    step_of(&sink, 2, 0, 3);
    CHECK(recorder_start(recorder, path_of("some.pftrace")) == 0 && recorder_active(recorder));
    CHECK(recorder_start(recorder, path_of("other.pftrace")) == -EBUSY);
    step_of(&sink, 2, 3, 5);
    step_of(&sink, 3, 0, 5);
    step_of(&sink, 4, 0, 2);
    CHECK(recorder_stop(recorder) == 0 && recorder_active(recorder));
    step_of(&sink, 4, 2, 5);
    CHECK(!recorder_active(recorder));
    step_of(&sink, 5, 0, 5);
    CHECK(passed.steps == 5 && passed.stages == 25 && passed.sources == 1);
    CHECK(trace_read(path_of("some.pftrace"), &from_file, NULL) == 0);
    CHECK_MESSAGE(read.steps == 2 && read.stages == 10 && read.sources == 1 && read.first_step == 3 &&
                      read.last_step == 4, "%lld steps, %lld stages in the file", (long long)read.steps,
                  (long long)read.stages);
    CHECK(recorder_start(recorder, "/nowhere/at/all.pftrace") < 0 && !recorder_active(recorder));
    // A dump holds whole steps too, recorded or not, up to the one that is under way.
    step_of(&sink, 55, 0, 2);
    read = (struct counted){0};
    CHECK(recorder_dump(recorder, path_of("dump.pftrace")) == 0);
    CHECK(trace_read(path_of("dump.pftrace"), &from_file, NULL) == 0);
    CHECK_MESSAGE(read.steps == 5 && read.stages == 25 && read.first_step == 1 && read.last_step == 5,
                  "%lld steps, %lld stages in the dump", (long long)read.steps, (long long)read.stages);
    step_of(&sink, 55, 2, 5);
    CHECK(recorder_dump(recorder, "/nowhere/at/all.pftrace") < 0);
    CHECK(recorder_start(recorder, path_of("last.pftrace")) == 0);
    step_of(&sink, 6, 0, 5);
    CHECK(recorder_close(recorder) == 0);    // ends what is still being written
    read = (struct counted){0};
    CHECK(trace_read(path_of("last.pftrace"), &from_file, NULL) == 0 && read.steps == 1);
}

int main(void)
{
    struct state *state = NULL;
    struct stream_options stream = {.seed = 3, .decode_steps = 20, .prefill_steps = 2, .requests = 2};
    check_begin();
    CHECK(mkdtemp(folder) != NULL && state_open(&state, NULL) == 0);
    struct sample_sink sink = state_sink(state);
    tui_stream(&sink, &stream);
    test_input();
    test_commands(state);
    test_settings();
    test_export(state);
    test_recorder();
    state_close(state);
    char line[64];
    snprintf(line, sizeof line, "rm -rf %s", folder);
    CHECK(system(line) == 0);
    return check_end();
}
