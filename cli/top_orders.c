// cli/top_orders.c - what the screen's thread asks of the engine's: knobs, methods, pauses. Under the mutex.
#include "cli/top_live_internal.h"

#include <stdio.h>
#include <string.h>

#include "cli/measure.h"

enum { MAX_BATCH = 1024, MAX_TOP_K = 1 << 24, MAX_CONTEXT = 1 << 22 };

enum knob_of_engine { ENGINE_K, ENGINE_BATCH, ENGINE_CONTEXT, ENGINE_INDEX_EVERY, ENGINE_KNOBS };
static const char *const knob_names[ENGINE_KNOBS] = {"k", "batch", "context", "index-every"};

// What a knob stands at: k is the model's own as long as nobody changed it.
static int32_t knob_value(const struct live *live, enum knob_of_engine knob)
{
    const struct orders *orders = &live->orders;
    switch (knob) {
    case ENGINE_BATCH: return orders->batch;
    case ENGINE_CONTEXT: return orders->context;
    case ENGINE_INDEX_EVERY: return orders->index_every;
    default: break;
    }
    int32_t top_k = orders->top_k > 0 ? orders->top_k : live->options.flags.options.top_k;
    for (int32_t i = 0; i < live->n_methods && top_k == 0; i++) {
        top_k = model_file_config(live->files[plan_find_method(live->names[i])->backbone])->native.shape.top_k;
    }
    return top_k;
}

static void set_knob(struct live *live, enum knob_of_engine knob, int64_t value, char *told, size_t told_bytes)
{
    struct orders *orders = &live->orders;
    int32_t unit = live->unit_tokens > 0 ? live->unit_tokens : 1;
    int64_t least = knob == ENGINE_K ? unit : knob == ENGINE_INDEX_EVERY ? 0 : 1;
    int64_t most = knob == ENGINE_K       ? (2 * (int64_t)orders->context < MAX_TOP_K ? 2 * orders->context : MAX_TOP_K)
                   : knob == ENGINE_BATCH ? MAX_BATCH
                   : knob == ENGINE_CONTEXT ? MAX_CONTEXT
                                            : PLAN_MAX_LAYERS;
    if (value < least || value > most || (knob == ENGINE_K && value % unit != 0)) {
        char units[32] = "";
        if (knob == ENGINE_K && unit > 1) {
            snprintf(units, sizeof units, ", in units of %d", unit);
        }
        snprintf(told, told_bytes, "!%s: from %lld to %lld%s", knob_names[knob], (long long)least, (long long)most,
                 units);
        return;
    }
    int32_t *to[ENGINE_KNOBS] = {&orders->top_k, &orders->batch, &orders->context, &orders->index_every};
    *to[knob] = (int32_t)value;
    orders->change++;
    if (knob == ENGINE_INDEX_EVERY && value == 0) {
        snprintf(told, told_bytes, "each method's own index sharing");
    } else {
        snprintf(told, told_bytes, "%s %lld", knob_names[knob], (long long)value);
    }
}

// "k 512", "device cuda:1".
static void set_by_text(struct live *live, const char *text, char *told, size_t told_bytes)
{
    size_t length = strcspn(text, " ");
    const char *value = text + length + (text[length] == ' ');
    int64_t number;
    char backend[32];
    int32_t device;
    for (int knob = 0; knob < ENGINE_KNOBS; knob++) {
        if (strlen(knob_names[knob]) == length && strncmp(text, knob_names[knob], length) == 0) {
            if (options_whole(value, &number)) {
                set_knob(live, (enum knob_of_engine)knob, number, told, told_bytes);
            } else {
                snprintf(told, told_bytes, "!%s: a whole number, not %.40s", knob_names[knob], value);
            }
            return;
        }
    }
    if (measure_device(backend, sizeof backend, &device, value) != 0 ||
        strlen(value) >= sizeof live->orders.device) {
        snprintf(told, told_bytes, "!device: cpu, reference or cuda[:N], not %.40s", value);
        return;
    }
    strcpy(live->orders.device, value);
    live->orders.change++;
    snprintf(told, told_bytes, "device %.40s", value);
}

static void choose_method(struct live *live, const char *name, char *told, size_t told_bytes)
{
    live->orders.only = -1;
    snprintf(told, told_bytes, "all methods");
    for (int32_t i = 0; i < live->n_methods; i++) {
        if (strcmp(live->names[i], name) == 0) {
            live->orders.only = i;
            live->orders.change++;
            snprintf(told, told_bytes, "%.30s only", name);
        }
    }
}

void orders_take_back(struct orders *now, const struct orders *failed, const struct orders *good)
{
    now->batch = now->batch == failed->batch ? good->batch : now->batch;
    now->context = now->context == failed->context ? good->context : now->context;
    now->top_k = now->top_k == failed->top_k ? good->top_k : now->top_k;
    now->index_every = now->index_every == failed->index_every ? good->index_every : now->index_every;
    if (strcmp(now->device, failed->device) == 0) {
        memcpy(now->device, good->device, sizeof now->device);
    }
}

void live_command(struct live *live, const struct request_to_owner *request, char *told, size_t told_bytes)
{
    struct orders *orders = &live->orders;
    pthread_mutex_lock(&live->mutex);
    int32_t every = orders->index_every;
    switch (request->command) {
    case COMMAND_PAUSE: orders->paused = true; break;
    case COMMAND_RESUME: orders->paused = false; orders->steps = 0; break;
    case COMMAND_STEP: orders->steps++; break;
    case COMMAND_COVERAGE: orders->coverage = !orders->coverage; break;
    case COMMAND_METHOD: choose_method(live, request->method, told, told_bytes); break;
    case COMMAND_K_UP: set_knob(live, ENGINE_K, 2 * (int64_t)knob_value(live, ENGINE_K), told, told_bytes); break;
    case COMMAND_K_DOWN: set_knob(live, ENGINE_K, knob_value(live, ENGINE_K) / 2, told, told_bytes); break;
    case COMMAND_BATCH_UP: set_knob(live, ENGINE_BATCH, 2 * (int64_t)orders->batch, told, told_bytes); break;
    case COMMAND_BATCH_DOWN: set_knob(live, ENGINE_BATCH, orders->batch / 2, told, told_bytes); break;
    case COMMAND_CONTEXT_UP: set_knob(live, ENGINE_CONTEXT, 2 * (int64_t)orders->context, told, told_bytes); break;
    case COMMAND_CONTEXT_DOWN: set_knob(live, ENGINE_CONTEXT, orders->context / 2, told, told_bytes); break;
    case COMMAND_INDEX_SHARING:
        set_knob(live, ENGINE_INDEX_EVERY, every == 0 ? 1 : every >= 8 ? 0 : 2 * every, told, told_bytes);
        break;
    case COMMAND_ENGINE: set_by_text(live, request->text, told, told_bytes); break;
    default: break;    // nothing that an engine is asked
    }
    pthread_cond_broadcast(&live->changed);
    pthread_mutex_unlock(&live->mutex);
}
