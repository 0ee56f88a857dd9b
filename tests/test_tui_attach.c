// tests/test_tui_attach.c - samples over a socket: what goes in comes out, to who was there and to who comes late.
#include <errno.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tests/check.h"
#include "tests/tui_stream.h"
#include "tui/dashboard.h"
#include "tui/listen.h"

static const struct stream_options stream = {.seed = 5, .decode_steps = 30, .prefill_steps = 2, .requests = 2};

static char *screen_of(const struct state *state)
{
    struct ui ui = ui_default();
    char *text;
    ui.view = VIEW_STAGES;
    CHECK(dashboard_snapshot(&text, state, &ui, &(struct snapshot_options){.rows = 60, .cols = 120}) == 0);
    return text;
}

static void pump_until(struct attachment *attachment, struct state *state, int64_t last_ns)
{
    struct sample_sink sink = state_sink(state);
    struct timespec moment = {.tv_nsec = 2000000};
    for (int32_t i = 0; i < 10000 && state_last_ns(state) < last_ns; i++) {    // 20 s: a busy machine
        attachment_pump(attachment, &sink);
        nanosleep(&moment, NULL);
    }
}

static struct state *new_state(void)
{
    struct state *state;
    CHECK(state_open(&state, NULL) == 0);
    return state;
}

int main(void)
{
    char folder[] = "/tmp/clsa-attach-XXXXXX", path[64], other[64], longer[300];
    struct listener *listener, *second;
    struct attachment *first, *late;
    struct state *expected = new_state(), *early = new_state(), *behind = new_state();
    check_begin();
    CHECK(mkdtemp(folder) != NULL);
    snprintf(path, sizeof path, "%s/socket", folder);
    snprintf(other, sizeof other, "%s/file", folder);
    memset(longer, 'x', sizeof longer - 1);
    longer[sizeof longer - 1] = 0;
    CHECK(attachment_open(&first, path) == -EINVAL && !first);
    CHECK(listener_open(&listener, longer) == -EINVAL && attachment_open(&first, longer) == -EINVAL);
    FILE *file = fopen(other, "w");
    fclose(file);
    CHECK(listener_open(&listener, other) == -EINVAL && access(other, F_OK) == 0);
    CHECK(listener_open(&listener, path) == 0);
    struct stat info;
    CHECK(stat(path, &info) == 0 && (info.st_mode & 0077) == 0);    // for this user alone
    CHECK(listener_open(&second, path) == -EADDRINUSE);
    CHECK(attachment_open(&first, path) == 0);
    struct sample_sink to_expected = state_sink(expected), to_socket = listener_sink(listener);
    tui_stream(&to_expected, &stream);
    tui_stream(&to_socket, &stream);
    pump_until(first, early, state_last_ns(expected));
    char *text = screen_of(expected), *got = screen_of(early);
    CHECK_MESSAGE(strcmp(text, got) == 0, "sent:\n%s\narrived:\n%s", text, got);
    free(got);
    free(text);
    // Who comes now knows the methods from before, and sees what comes next.
    CHECK(attachment_open(&late, path) == 0);
    struct step_sample step = {.source = 1, .step = 9, .phase = PHASE_DECODE, .n_seqs = 1, .n_tokens = 1,
                               .begin_ns = INT64_C(1) << 50, .duration_ns = 5};
    to_socket.step(to_socket.user, &step);
    pump_until(late, behind, step.begin_ns + 5);
    CHECK(state_method_count(behind) == 3 && state_find_method(behind, "dense") == 1);
    CHECK(state_last_ns(behind) == step.begin_ns + 5 && state_lost(behind) == 0);
    const struct request_log *requests = state_requests(behind), *all = state_requests(expected);
    CHECK(request_log_end(requests) == request_log_end(all) && request_log_end(all) > 0);    // also those from before
    CHECK(!attachment_ended(late) && attachment_dropped(late) == 0);
    attachment_close(first);    // one that goes away harms nobody
    to_socket.step(to_socket.user, &step);
    listener_close(listener);
    struct sample_sink sink = state_sink(behind);
    for (int32_t i = 0; i < 1000 && !attachment_ended(late); i++) {
        attachment_pump(late, &sink);
    }
    CHECK(attachment_ended(late) && access(path, F_OK) != 0);
    attachment_close(late);
    state_close(expected);
    state_close(early);
    state_close(behind);
    CHECK(unlink(other) == 0 && rmdir(folder) == 0);
    return check_end();
}
