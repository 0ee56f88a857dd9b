// tests/test_scheduler.c - random traffic through the scheduler, watched from outside: what each step may hold, who may
// start, what preemption costs, and that every request gets exactly its tokens.
#include "engine/scheduler.h"
#include "engine/status.h"
#include "tests/check.h"

#include <errno.h>

enum { MAX_REQUESTS = 40, MAX_SEQS = 6 };

enum state { WAITING, RUNNING, DONE };

struct watched {
    enum state state;
    int32_t prompt, max_output, stop_at;    // stop_at: the drawn token at which the text ends by itself
    int32_t drawn, cached, slot;
    int32_t prefill;                        // tokens known when it started: until they are cached it is a prompt
};

struct traffic {
    struct scheduler_options options;
    struct kv_pages *pages;
    struct scheduler *scheduler;
    int32_t page_tokens, n_pages;
    struct watched requests[MAX_REQUESTS];    // by id, which is the order of submission
    int32_t n_requests, n_submitted;
    int64_t preemptions, steps;
    uint64_t history;                         // of every decision
};

static void remember(struct traffic *traffic, int64_t value)
{
    traffic->history = (traffic->history ^ (uint64_t)value) * 1099511628211u;
}

static int32_t pages_for(const struct traffic *traffic, int32_t tokens)
{
    return tokens / traffic->page_tokens + (tokens % traffic->page_tokens != 0);
}

static bool can_fit(const struct traffic *traffic, int32_t prompt, int32_t output)
{
    return pages_for(traffic, prompt + output - 1) <= traffic->n_pages;
}

static void submit_some(struct traffic *traffic)
{
    while (traffic->n_submitted < traffic->n_requests && check_range(0, 2)) {
        struct watched *request = &traffic->requests[traffic->n_submitted];
        int32_t prompt = check_range(1, 60), output = check_range(1, 40);
        int error = scheduler_submit(traffic->scheduler, traffic->n_submitted, prompt, output);
        if (!can_fit(traffic, prompt, output)) {
            CHECK(error == -EINVAL && strstr(status_text(), "can never fit"));
            continue;
        }
        CHECK(error == 0);
        int32_t stop_at = check_range(0, 3) ? output : check_range(1, output);
        *request = (struct watched){.state = WAITING, .prompt = prompt, .max_output = output, .stop_at = stop_at};
        traffic->n_submitted++;
    }
}

// Preempted requests are the youngest that run, named youngest first.
static void watch_preempted(struct traffic *traffic, const int64_t *preempted, int32_t n)
{
    for (int32_t i = 0; i < n; i++) {
        struct watched *request = &traffic->requests[preempted[i]];
        CHECK(request->state == RUNNING);
        for (int32_t r = (int32_t)preempted[i] + 1; r < traffic->n_submitted; r++) {
            CHECK_MESSAGE(traffic->requests[r].state != RUNNING, "%lld preempted before the younger %d",
                          (long long)preempted[i], r);
        }
        request->state = WAITING;
        request->cached = 0;
        traffic->preemptions++;
        remember(traffic, preempted[i]);
    }
}

static void watch_scheduled(struct traffic *traffic, const struct scheduled *part, bool preempted)
{
    struct watched *request = &traffic->requests[part->request];
    int32_t known = request->prompt + request->drawn;
    if (request->state == WAITING) {
        CHECK(!preempted);    // nobody starts in a step that was short of pages
        for (int32_t r = 0; r < (int32_t)part->request; r++) {
            CHECK_MESSAGE(traffic->requests[r].state != WAITING, "%lld started before the older %d",
                          (long long)part->request, r);
        }
        request->state = RUNNING;
        request->slot = part->slot;
        request->prefill = known;
    }
    CHECK(request->state == RUNNING && part->slot == request->slot);
    CHECK(part->context_tokens == request->cached);
    CHECK(part->new_tokens >= 1 && part->context_tokens + part->new_tokens <= known);
    CHECK(part->wants_logits == (part->context_tokens + part->new_tokens == known));
    int32_t n_pages;
    kv_pages_table(traffic->pages, part->slot, &n_pages);
    CHECK(n_pages >= pages_for(traffic, part->context_tokens + part->new_tokens));
    remember(traffic, part->request * 1000003 + part->slot * 4099 + part->context_tokens * 64 + part->new_tokens);
}

static bool in_step(const struct scheduled *parts, int32_t n, int64_t request)
{
    for (int32_t i = 0; i < n; i++) {
        if (parts[i].request == request) {
            return true;
        }
    }
    return false;
}

// Decoding sequences come first, each group oldest first; a prompt is cut short only where the step is full.
static void watch_order(const struct traffic *traffic, const struct scheduled *parts, int32_t n)
{
    int32_t tokens = 0;
    bool prompts = false;
    for (int32_t i = 0; i < n; i++) {
        const struct watched *request = &traffic->requests[parts[i].request];
        bool decodes = request->cached >= request->prefill;
        CHECK(decodes == (i < scheduler_decoding(traffic->scheduler)));
        CHECK(i == 0 || prompts != !decodes || parts[i].request > parts[i - 1].request);
        prompts = !decodes;
        tokens += parts[i].new_tokens;
        CHECK(parts[i].wants_logits || tokens == traffic->options.max_step_tokens);
        for (int32_t k = 0; k < i; k++) {
            CHECK(parts[k].request != parts[i].request && parts[k].slot != parts[i].slot);
        }
    }
    CHECK(n <= traffic->options.max_seqs && tokens <= traffic->options.max_step_tokens);
}

// A step with room to spare leaves out nobody who could be in it.
static void watch_room(const struct traffic *traffic, const struct scheduled *parts, int32_t n, bool preempted)
{
    int32_t tokens = 0, running = 0, head = -1;
    for (int32_t i = 0; i < n; i++) {
        tokens += parts[i].new_tokens;
    }
    for (int32_t r = traffic->n_submitted - 1; r >= 0; r--) {
        running += traffic->requests[r].state == RUNNING;
        head = traffic->requests[r].state == WAITING ? r : head;
    }
    if (tokens == traffic->options.max_step_tokens) {
        return;
    }
    for (int32_t r = 0; r < traffic->n_submitted; r++) {
        CHECK(traffic->requests[r].state != RUNNING || in_step(parts, n, r));
    }
    if (head >= 0 && !preempted && running < traffic->options.max_seqs) {
        int32_t needed = pages_for(traffic, traffic->requests[head].prompt + traffic->requests[head].drawn);
        CHECK_MESSAGE(needed > kv_pages_free(traffic->pages), "request %d could have started", head);
    }
}

static void complete(struct traffic *traffic, const struct scheduled *parts, int32_t n)
{
    bool ended[MAX_SEQS] = {false}, expected[MAX_REQUESTS] = {false};
    int32_t n_expected = 0, n_finished = -1;
    int64_t finished[MAX_SEQS];
    for (int32_t i = 0; i < n; i++) {
        struct watched *request = &traffic->requests[parts[i].request];
        request->cached += parts[i].new_tokens;
        request->drawn += parts[i].wants_logits;
        ended[i] = request->drawn == request->stop_at && request->stop_at < request->max_output;
        if (request->drawn == request->stop_at) {
            expected[parts[i].request] = true;
            n_expected++;
        }
    }
    scheduler_complete(traffic->scheduler, parts, ended, n, finished, &n_finished);
    CHECK(n_finished == n_expected);
    for (int32_t i = 0; i < n_finished; i++) {
        CHECK(finished[i] >= 0 && finished[i] < traffic->n_submitted && expected[finished[i]]);
        traffic->requests[finished[i]].state = DONE;
        remember(traffic, finished[i]);
    }
}

static void count_states(const struct traffic *traffic)
{
    int32_t running = 0, waiting = 0;
    for (int32_t i = 0; i < traffic->n_submitted; i++) {
        running += traffic->requests[i].state == RUNNING;
        waiting += traffic->requests[i].state == WAITING;
    }
    CHECK(scheduler_running(traffic->scheduler) == running && scheduler_waiting(traffic->scheduler) == waiting);
    CHECK(running <= traffic->options.max_seqs);
}

static void run_step(struct traffic *traffic)
{
    struct scheduled parts[MAX_SEQS];
    int64_t preempted[MAX_SEQS];
    int32_t n_preempted = -1;
    int32_t waiting = scheduler_waiting(traffic->scheduler), running = scheduler_running(traffic->scheduler);
    int32_t n = scheduler_next(traffic->scheduler, parts, preempted, &n_preempted);
    CHECK((n == 0) == (waiting + running == 0));
    watch_preempted(traffic, preempted, n_preempted);
    for (int32_t i = 0; i < n; i++) {
        watch_scheduled(traffic, &parts[i], n_preempted > 0);
    }
    watch_order(traffic, parts, n);
    watch_room(traffic, parts, n, n_preempted > 0);
    count_states(traffic);
    complete(traffic, parts, n);
    count_states(traffic);
    traffic->steps++;
}

// Returns the history of a whole run, which is a function of the test's random state.
static uint64_t run_traffic(int64_t *preemptions)
{
    struct traffic traffic = {
        .options = {.max_seqs = check_range(1, MAX_SEQS), .max_step_tokens = check_range(1, 64)},
        .page_tokens = check_range(1, 16),
        .n_pages = check_range(4, 40),
        .n_requests = check_range(1, MAX_REQUESTS),
    };
    while (!can_fit(&traffic, 1, 40)) {
        traffic.n_pages++;    // or some draws would never yield a request that fits
    }
    CHECK(kv_pages_open(&traffic.pages, traffic.n_pages, traffic.page_tokens, traffic.options.max_seqs) == 0);
    CHECK(scheduler_open(&traffic.scheduler, &traffic.options, traffic.pages) == 0);
    for (int i = 0; i < 100000 && !check_failures; i++) {
        submit_some(&traffic);
        run_step(&traffic);
        if (traffic.n_submitted == traffic.n_requests &&
            scheduler_running(traffic.scheduler) + scheduler_waiting(traffic.scheduler) == 0) {
            break;
        }
    }
    for (int32_t i = 0; i < traffic.n_requests; i++) {
        const struct watched *request = &traffic.requests[i];
        CHECK_MESSAGE(request->state == DONE && request->drawn == request->stop_at, "request %d drew %d of %d", i,
                      request->drawn, request->stop_at);
    }
    CHECK(kv_pages_used(traffic.pages) == 0);
    scheduler_close(traffic.scheduler);
    kv_pages_close(traffic.pages);
    *preemptions += traffic.preemptions;
    return traffic.history;
}

static void test_close_with_work(void)
{
    struct kv_pages *pages;
    struct scheduler *scheduler;
    struct scheduled parts[2];
    int64_t preempted[2];
    int32_t n_preempted;
    CHECK(kv_pages_open(&pages, 4, 16, 2) == 0);
    CHECK(scheduler_open(&scheduler, &(struct scheduler_options){.max_seqs = 2, .max_step_tokens = 8}, pages) == 0);
    for (int64_t i = 0; i < 4; i++) {
        CHECK(scheduler_submit(scheduler, i, 20, 4) == 0);
    }
    CHECK(scheduler_next(scheduler, parts, preempted, &n_preempted) == 1 && parts[0].new_tokens == 8);
    scheduler_close(scheduler);
    CHECK(kv_pages_used(pages) == 0);
    kv_pages_close(pages);
}

static void test_bad_input(void)
{
    struct kv_pages *pages;
    struct scheduler *scheduler = (struct scheduler *)&pages;
    CHECK(kv_pages_open(&pages, 4, 16, 2) == 0);
    struct scheduler_options none = {.max_seqs = 0, .max_step_tokens = 8}, no_rows = {.max_seqs = 1}, one = {1, 8, {0}};
    CHECK(scheduler_open(&scheduler, &none, pages) == -EINVAL && !scheduler);
    CHECK(scheduler_open(&scheduler, &no_rows, pages) == -EINVAL && !scheduler);
    CHECK(scheduler_open(&scheduler, &one, pages) == 0);
    CHECK(scheduler_submit(scheduler, 0, 0, 1) == -EINVAL);
    CHECK(scheduler_submit(scheduler, 0, 1, 0) == -EINVAL);
    CHECK(scheduler_submit(scheduler, 0, 64, 2) == -EINVAL);
    CHECK(scheduler_submit(scheduler, 0, INT32_MAX, INT32_MAX) == -EINVAL);
    CHECK(scheduler_waiting(scheduler) == 0);
    CHECK(scheduler_submit(scheduler, 0, 64, 1) == 0);    // the one token drawn is never cached
    scheduler_close(scheduler);
    scheduler_close(NULL);
    kv_pages_close(pages);
}

int main(void)
{
    check_begin();
    int64_t preemptions = 0;
    for (int i = 0; i < 300 && !check_failures; i++) {
        uint64_t state = check_state;
        uint64_t history = run_traffic(&preemptions);
        check_state = state;
        CHECK_MESSAGE(run_traffic(&preemptions) == history, "the same traffic was scheduled differently");
    }
    CHECK_MESSAGE(preemptions > 0, "no run was short of pages: the test shows too little");
    test_close_with_work();
    test_bad_input();
    return check_end();
}
