// tests/test_tui_feed.c - the ring between engine and screen: order, whole steps, counted losses, two threads.
#include <pthread.h>
#include <stdatomic.h>

#include "tests/check.h"
#include "tui/feed.h"

// What came out of the feed. Every sample carries its number in the stream.
struct seen {
    int64_t samples, sources, steps, last, step, stages_of_step, broken_steps, disorders;
    int32_t source;
};

static void in_order(struct seen *seen, int64_t number)
{
    seen->disorders += number <= seen->last;
    seen->last = number;
    seen->samples++;
}

static void on_source(void *user, const struct sample_source *source)
{
    struct seen *seen = user;
    seen->sources++;
    seen->source = source->id;
    seen->samples++;
    CHECK(source->n_layers == source->id * 7 && strcmp(source->method, "clsa") == 0);
}

static void on_stage(void *user, const struct stage_sample *sample)
{
    struct seen *seen = user;
    in_order(seen, sample->begin_ns);
    seen->stages_of_step = sample->step == seen->step ? seen->stages_of_step + 1 : 1;
    seen->step = sample->step;
    CHECK(sample->bytes == sample->begin_ns * 3);
}

// A step says how many stages it had.
static void on_step(void *user, const struct step_sample *sample)
{
    struct seen *seen = user;
    in_order(seen, sample->begin_ns);
    seen->steps++;
    seen->broken_steps +=
        sample->n_tokens > 0 && (seen->step != sample->step || seen->stages_of_step != sample->n_tokens);
}

static void on_request(void *user, const struct request_sample *sample)
{
    in_order(user, sample->time_ns);
}

static void on_counter(void *user, const struct counter_sample *sample)
{
    in_order(user, sample->time_ns);
    CHECK(sample->value == (double)sample->time_ns);
}

static struct sample_sink seen_sink(struct seen *seen)
{
    return (struct sample_sink){.user = seen, .source = on_source, .stage = on_stage, .step = on_step,
                                .request = on_request, .counter = on_counter};
}

// Sends a step of `n_stages` and what goes with it; returns the number of samples.
static int64_t send_step(const struct sample_sink *sink, int64_t *number, int32_t n_stages)
{
    int64_t begin = *number;
    for (int32_t i = 0; i < n_stages; i++) {
        ++*number;
        struct stage_sample stage = {.step = begin, .begin_ns = *number, .bytes = *number * 3};
        sink->stage(sink->user, &stage);
    }
    ++*number;
    struct counter_sample counter = {.time_ns = *number, .value = (double)*number};
    sink->counter(sink->user, &counter);
    ++*number;
    struct step_sample step = {.step = begin, .begin_ns = *number, .n_tokens = n_stages};
    sink->step(sink->user, &step);
    return *number - begin;
}

static void announce(const struct sample_sink *sink, int32_t id)
{
    struct sample_source source = {.id = id, .n_layers = id * 7, .method = "clsa"};
    sink->source(sink->user, &source);
}

static void test_one_thread(void)
{
    struct feed *feed;
    struct seen seen = {0};
    struct sample_sink to = seen_sink(&seen);
    int64_t number = 0, sent = 0;
    CHECK(feed_open(&feed, 64) == 0);
    struct sample_sink sink = feed_sink(feed);
    for (int32_t round = 0; round < 500; round++) {
        announce(&sink, round);
        sent += 1 + send_step(&sink, &number, check_range(0, 20));
        CHECK(feed_drain(feed, &to) >= 3);
        CHECK(seen.source == round);
    }
    CHECK(seen.samples == sent && feed_dropped(feed) == 0 && seen.broken_steps == 0 && seen.disorders == 0);
    CHECK(feed_drain(feed, &to) == 0);
    // Nobody drains: what the ring cannot hold is counted, and what comes out are whole steps and rare samples.
    for (int32_t round = 0; round < 50; round++) {
        sent += send_step(&sink, &number, 20);
    }
    struct request_sample request = {.time_ns = ++number};
    sink.request(sink.user, &request);
    sent++;
    feed_drain(feed, &to);
    CHECK_MESSAGE(seen.samples + feed_dropped(feed) == sent, "%lld came, %lld lost, %lld sent", (long long)seen.samples,
                  (long long)feed_dropped(feed), (long long)sent);
    CHECK(feed_dropped(feed) > 0 && seen.disorders == 0 && seen.broken_steps == 0);
    feed_close(feed);
}

static void test_many_sources(void)
{
    struct feed *feed;
    struct seen seen = {0};
    struct sample_sink to = seen_sink(&seen);
    CHECK(feed_open(&feed, 1024) == 0);
    struct sample_sink sink = feed_sink(feed);
    for (int32_t id = 0; id < 200; id++) {
        announce(&sink, id);
    }
    feed_drain(feed, &to);
    CHECK(seen.sources > 0 && seen.sources + feed_dropped(feed) == 200);
    announce(&sink, 1000);
    feed_drain(feed, &to);
    CHECK(seen.source == 1000);
    feed_close(feed);
}

struct producer {
    struct feed *feed;
    int64_t sent;
    _Atomic bool done;
};

static void *produce(void *user)
{
    struct producer *producer = user;
    struct sample_sink sink = feed_sink(producer->feed);
    int64_t number = 0;
    for (int32_t round = 0; round < 20000; round++) {
        if (round % 100 == 0) {
            announce(&sink, round);
            producer->sent++;
        }
        producer->sent += send_step(&sink, &number, round % 30);
    }
    atomic_store(&producer->done, true);
    return NULL;
}

static void test_two_threads(void)
{
    struct producer producer = {0};
    struct seen seen = {0};
    struct sample_sink to = seen_sink(&seen);
    pthread_t thread;
    CHECK(feed_open(&producer.feed, 256) == 0);
    CHECK(pthread_create(&thread, NULL, produce, &producer) == 0);
    int64_t drained = 0;
    while (!atomic_load(&producer.done)) {
        drained += feed_drain(producer.feed, &to);
    }
    CHECK(pthread_join(thread, NULL) == 0);
    drained += feed_drain(producer.feed, &to);
    CHECK(drained == seen.samples && seen.steps > 0 && seen.disorders == 0 && seen.broken_steps == 0);
    CHECK_MESSAGE(seen.samples + feed_dropped(producer.feed) == producer.sent, "%lld came, %lld lost, %lld sent",
                  (long long)seen.samples, (long long)feed_dropped(producer.feed), (long long)producer.sent);
    feed_close(producer.feed);
}

struct kernels_seen {
    int64_t n;
    const char *names[8];
};

static void on_kernel(void *user, const struct kernel_sample *sample)
{
    struct kernels_seen *seen = user;
    seen->names[seen->n++ % 8] = sample->name;
    CHECK(sample->grid[0] == 132 && sample->duration_ns == 5);
}

// The name is the sender's for the call only; the feed's lasts, one copy for all samples of a kernel.
static void test_kernel_names(void)
{
    struct feed *feed;
    struct kernels_seen seen = {0};
    struct sample_sink to = {.user = &seen, .kernel = on_kernel};
    CHECK(feed_open(&feed, 64) == 0);
    struct sample_sink sink = feed_sink(feed);
    for (int i = 0; i < 6; i++) {
        char name[16];
        snprintf(name, sizeof name, "kernel%d", i % 2);
        sink.kernel(sink.user, &(struct kernel_sample){.name = name, .grid = {132, 1, 1}, .duration_ns = 5});
        memset(name, 'x', sizeof name - 1);
    }
    CHECK(feed_drain(feed, &to) == 6 && seen.n == 6);
    for (int i = 0; i < 6; i++) {
        CHECK(strcmp(seen.names[i], i % 2 ? "kernel1" : "kernel0") == 0 && seen.names[i] == seen.names[i % 2]);
    }
    feed_close(feed);
}

// What a collector lost counts too; each source tells its own, added up.
static void test_losses(void)
{
    struct feed *feed;
    CHECK(feed_open(&feed, 64) == 0);
    struct sample_sink sink = feed_sink(feed);
    const struct loss_sample told[] = {{.source = 0, .dropped = 3}, {.source = 0, .dropped = 5, .invalid = 1},
                                       {.source = 1, .invalid = 2}, {.source = 1, .dropped = 4, .invalid = 2}};
    const int64_t expected[] = {3, 6, 8, 12};
    for (int i = 0; i < 4; i++) {
        sink.loss(sink.user, &told[i]);
        CHECK_MESSAGE(feed_dropped(feed) == expected[i], "%lld lost", (long long)feed_dropped(feed));
    }
    feed_close(feed);
}

int main(void)
{
    check_begin();
    test_kernel_names();
    test_one_thread();
    test_many_sources();
    test_two_threads();
    test_losses();
    return check_end();
}
