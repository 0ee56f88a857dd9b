// tests/test_prefix.c - prompts that begin alike through the scheduler, with pages and windows that hold what was
// written into them: whoever takes over pages must find its own tokens there, and nobody may write where others read.
#include "engine/scheduler.h"
#include "engine/status.h"
#include "tests/check.h"

enum { MAX_SEQS = 5, MAX_REQUESTS = 60, MAX_TOKENS = 160, MAX_PAGES = 90, MAX_PAGE_TOKENS = 8, MAX_SNAPSHOTS = 4 };
enum { FAMILIES = 4 };

struct text {
    int32_t prompt, output, known, cached, reused;
    uint64_t tokens[MAX_TOKENS];    // a token stands for all before it, too
    bool started;
};

struct world {
    struct scheduler_options options;
    struct kv_pages *pages;
    struct scheduler *scheduler;
    int32_t page_tokens, n_pages, n_requests;
    struct text texts[MAX_REQUESTS];
    uint64_t held[MAX_PAGES][MAX_PAGE_TOKENS];            // what the pages' memory holds
    uint64_t windows[MAX_SEQS + MAX_SNAPSHOTS];           // of a ring, the token that it ends with
    int64_t reused, computed, restored, preempted;
};

static uint64_t key(const void *user, int64_t request, int32_t tokens)
{
    const struct world *world = user;
    return world->texts[request].tokens[tokens - 1];
}

// Families share beginnings of several lengths; the rest of each text is its own.
static void make_texts(struct world *world)
{
    uint64_t family[FAMILIES][MAX_TOKENS];
    for (int f = 0; f < FAMILIES; f++) {
        for (int t = 0; t < MAX_TOKENS; t++) {
            family[f][t] = check_random();
        }
    }
    world->n_requests = check_range(1, MAX_REQUESTS);
    for (int32_t i = 0; i < world->n_requests; i++) {
        struct text *text = &world->texts[i];
        *text = (struct text){.prompt = check_range(1, 60), .output = check_range(1, 30)};
        int32_t f = check_range(0, FAMILIES - 1), shared = check_range(0, 2) ? check_range(0, 80) : 24;
        for (int32_t t = 0; t < MAX_TOKENS; t++) {
            text->tokens[t] = t < shared ? family[f][t] : check_random();
        }
        text->known = text->prompt;
    }
}

// Rows are written where the table says, and nobody else may read there.
static void write_rows(struct world *world, const struct scheduled *part)
{
    const struct text *text = &world->texts[part->request];
    int32_t n_pages;
    const int32_t *table = kv_pages_table(world->pages, part->slot, &n_pages);
    for (int32_t t = part->context_tokens; t < part->context_tokens + part->new_tokens; t++) {
        int32_t page = table[t / world->page_tokens];
        CHECK_MESSAGE(kv_pages_references(world->pages, page) == 1, "request %lld writes into a shared page",
                      (long long)part->request);
        CHECK(!page_index_knows(kv_pages_index(world->pages), page));
        world->held[page][t % world->page_tokens] = text->tokens[t];
    }
    world->windows[part->slot] = text->tokens[part->context_tokens + part->new_tokens - 1];
}

static void read_context(const struct world *world, const struct scheduled *part)
{
    const struct text *text = &world->texts[part->request];
    int32_t n_pages;
    const int32_t *table = kv_pages_table(world->pages, part->slot, &n_pages);
    for (int32_t t = 0; t < part->context_tokens; t++) {
        CHECK_MESSAGE(world->held[table[t / world->page_tokens]][t % world->page_tokens] == text->tokens[t],
                      "request %lld, %d tokens reused: position %d of %d is another's", (long long)part->request,
                      part->reused_tokens, t, part->context_tokens);
    }
    CHECK_MESSAGE(!world->options.prefix.has_windows || part->context_tokens == 0 ||
                      world->windows[part->slot] == text->tokens[part->context_tokens - 1],
                  "request %lld goes on at %d with another's window", (long long)part->request, part->context_tokens);
}

static void take_part(struct world *world, const struct scheduled *part)
{
    struct text *text = &world->texts[part->request];
    const struct prefix_options *prefix = &world->options.prefix;
    if (part->reused_tokens > 0 || !text->started || part->context_tokens != text->cached) {
        text->cached = part->reused_tokens;    // it starts, or starts over
    }
    text->started = true;
    CHECK(part->context_tokens == text->cached && part->context_tokens + part->new_tokens <= text->known);
    CHECK(part->reused_tokens % prefix->unit_tokens == 0 && part->reused_tokens < text->known);
    CHECK(part->reused_tokens <= text->prompt && part->snapshot_to < prefix->n_snapshots);
    CHECK((part->restore_from >= 0) == (prefix->has_windows && part->reused_tokens > 0));
    if (part->restore_from >= 0) {
        world->windows[part->slot] = world->windows[MAX_SEQS + part->restore_from];
        world->restored++;
    }
    world->reused += part->reused_tokens;
    world->computed += part->new_tokens;
}

static void run_step(struct world *world)
{
    struct scheduled parts[MAX_SEQS];
    bool ended[MAX_SEQS] = {false};
    int64_t preempted[MAX_SEQS], finished[MAX_SEQS];
    int32_t n_preempted, n_finished;
    int32_t n = scheduler_next(world->scheduler, parts, preempted, &n_preempted);
    world->preempted += n_preempted;
    for (int32_t i = 0; i < n_preempted; i++) {
        world->texts[preempted[i]].started = false;
    }
    for (int32_t i = 0; i < n; i++) {
        take_part(world, &parts[i]);
    }
    for (int32_t i = 0; i < n; i++) {    // all read what was there before the step; what it writes comes after
        read_context(world, &parts[i]);
    }
    for (int32_t i = 0; i < n; i++) {
        write_rows(world, &parts[i]);
        world->texts[parts[i].request].cached += parts[i].new_tokens;
        world->texts[parts[i].request].known += parts[i].wants_logits;
        ended[i] = parts[i].wants_logits && check_range(0, 40) == 0;
    }
    for (int32_t i = 0; i < n; i++) {
        if (parts[i].snapshot_to >= 0) {
            world->windows[MAX_SEQS + parts[i].snapshot_to] = world->windows[parts[i].slot];
        }
    }
    scheduler_complete(world->scheduler, parts, ended, n, finished, &n_finished);
}

static void run_world(struct world *world)
{
    int32_t submitted = 0, unit;
    world->page_tokens = check_range(1, MAX_PAGE_TOKENS);
    unit = world->page_tokens * check_range(1, 3);
    world->n_pages = check_range(89 / world->page_tokens + 1, MAX_PAGES);
    world->options = (struct scheduler_options){
        .max_seqs = check_range(1, MAX_SEQS),
        .max_step_tokens = check_range(1, 64),
        .prefix = {.key = key, .user = world, .unit_tokens = unit, .has_windows = check_range(0, 1)}};
    world->options.prefix.n_snapshots = world->options.prefix.has_windows ? check_range(1, MAX_SNAPSHOTS) : 0;
    make_texts(world);
    CHECK(kv_pages_open(&world->pages, world->n_pages, world->page_tokens, world->options.max_seqs) == 0);
    CHECK(scheduler_open(&world->scheduler, &world->options, world->pages) == 0);
    for (int i = 0; i < 100000 && !check_failures; i++) {
        while (submitted < world->n_requests && check_range(0, 2)) {
            const struct text *text = &world->texts[submitted];
            int error = scheduler_submit(world->scheduler, submitted++, text->prompt, text->output);
            CHECK_MESSAGE(error == 0, "%s", status_text());
        }
        if (scheduler_running(world->scheduler) + scheduler_waiting(world->scheduler) > 0) {
            run_step(world);
        } else if (submitted == world->n_requests) {
            break;
        }
    }
    CHECK(kv_pages_used(world->pages) == 0 && kv_pages_free(world->pages) == world->n_pages);
    scheduler_close(world->scheduler);
    kv_pages_close(world->pages);
}

// One prompt after the other with ample room: what is found can be told beforehand.
static void test_hits(bool has_windows)
{
    enum { PAGE = 4, PROMPT = 21 };
    static struct world world;
    int32_t expected[] = {0, 20, 8, 8, 8};    // the same again; two that leave it at 10; a third that does; one page
    world = (struct world){.page_tokens = PAGE, .n_pages = 60, .n_requests = 5};
    world.options = (struct scheduler_options){
        .max_seqs = 1,
        .max_step_tokens = 64,
        .prefix = {.key = key, .user = &world, .unit_tokens = PAGE, .has_windows = has_windows,
                   .n_snapshots = has_windows ? 4 : 0}};
    if (has_windows) {
        expected[2] = 0;    // no snapshot where it leaves the first; the next finds its
    }
    for (int32_t i = 0; i < world.n_requests; i++) {
        world.texts[i] = (struct text){.prompt = i == 4 ? 9 : PROMPT, .output = 3, .known = i == 4 ? 9 : PROMPT};
        for (int32_t t = 0; t < MAX_TOKENS; t++) {
            bool shared = t < 10 || (i < 2 && t < PROMPT);
            world.texts[i].tokens[t] = shared ? (uint64_t)t * 7919 + 1 : check_random();
        }
    }
    CHECK(kv_pages_open(&world.pages, world.n_pages, PAGE, 1) == 0);
    CHECK(scheduler_open(&world.scheduler, &world.options, world.pages) == 0);
    for (int32_t i = 0; i < world.n_requests; i++) {
        int64_t before = world.reused;
        CHECK(scheduler_submit(world.scheduler, i, world.texts[i].prompt, world.texts[i].output) == 0);
        while (scheduler_running(world.scheduler) + scheduler_waiting(world.scheduler) > 0) {
            run_step(&world);
        }
        CHECK_MESSAGE(world.reused - before == expected[i], "windows %d: request %d found %lld tokens, expected %d",
                      has_windows, i, (long long)(world.reused - before), expected[i]);
    }
    scheduler_close(world.scheduler);
    kv_pages_close(world.pages);
}

int main(void)
{
    check_begin();
    int64_t reused[2] = {0, 0}, restored = 0, preempted = 0;
    test_hits(false);
    test_hits(true);
    for (int i = 0; i < 400 && !check_failures; i++) {
        static struct world world;
        world = (struct world){0};
        run_world(&world);
        reused[world.options.prefix.has_windows] += world.reused;
        restored += world.restored;
        preempted += world.preempted;
    }
    CHECK_MESSAGE(check_failures || (reused[0] > 0 && reused[1] > 0 && restored > 0 && preempted > 0),
                  "nothing was reused, restored or preempted: the test shows too little");
    return check_end();
}
