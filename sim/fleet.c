// sim/fleet.c - the router, and replicas on one clock.
//
// Where the router does not look at the replicas, each answers its own list from end to end. Where it does, all are
// brought to each arrival before it is given away; one that cannot let anybody in may be ahead by then, which changes
// nothing: what it has in hand at the arrival is known.
#include "sim/fleet.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "engine/status.h"
#include "sim/affinity.h"
#include "sim/service.h"

static const char *const router_names[] = {"round-robin", "least-load", "prefix"};

const char *router_name(enum router router)
{
    return router_names[router];
}

int router_from_name(enum router *out, const char *name)
{
    for (int i = 0; i < ROUTER_COUNT; i++) {
        if (strcmp(name, router_names[i]) == 0) {
            *out = (enum router)i;
            return 0;
        }
    }
    return status_fail(-EINVAL, "%s: expected round-robin, least-load or prefix", name);
}

struct fleet {
    const struct workload *workload;
    struct fleet_options options;
    struct fleet_result *result;
    struct step_price *price;
    struct slo_watch watch;
    struct service *services;    // [n_replicas]
    int32_t n_open;
};

// ---------------------------------------------------------------------------------------------------------------------
// Routes that do not depend on the replicas

static int route_blindly(struct fleet *fleet)
{
    const struct workload *workload = fleet->workload;
    int32_t replicas = fleet->options.n_replicas;
    int32_t *chosen = NULL;
    int error = 0;
    if (fleet->options.router == ROUTER_PREFIX && workload->users == 0) {
        chosen = malloc((size_t)workload->n * sizeof *chosen + 1);
        error = chosen ? affinity_route(chosen, workload, replicas) : status_fail(-ENOMEM, "no memory for a router");
    }
    for (int64_t i = 0; !error && i < workload->n; i++) {
        int64_t turn = workload->users > 0 ? i % workload->users : i;
        error = service_take(&fleet->services[chosen ? chosen[i] : turn % replicas], i);
    }
    free(chosen);
    for (int32_t r = 0; !error && r < replicas && !fleet->watch.lost; r++) {
        error = service_advance(&fleet->services[r], INFINITY);
    }
    return error;
}

// ---------------------------------------------------------------------------------------------------------------------
// The route that does

static int route_by_load(struct fleet *fleet)
{
    int32_t replicas = fleet->options.n_replicas;
    int error = 0;
    for (int64_t i = 0; !error && i < fleet->workload->n && !fleet->watch.lost; i++) {
        double arrival_s = fleet->result->records[i].arrival_s;
        int64_t fewest = INT64_MAX;
        int32_t chosen = 0;
        // Nobody has less in hand than nothing, and of equals the first is taken: the others may stay where they are.
        for (int32_t r = 0; !error && r < replicas && fewest > 0; r++) {
            error = service_advance(&fleet->services[r], arrival_s);
            int64_t in_hand = service_in_hand(&fleet->services[r], arrival_s);
            if (in_hand < fewest) {
                fewest = in_hand;
                chosen = r;
            }
        }
        error = error ? error : service_take(&fleet->services[chosen], i);
    }
    for (int32_t r = 0; !error && r < replicas && !fleet->watch.lost; r++) {
        error = service_advance(&fleet->services[r], INFINITY);
    }
    return error;
}

// ---------------------------------------------------------------------------------------------------------------------
// What became of it

// The percentile by nearest rank is within a limit if no more than these are beyond it.
static int64_t allowed(int64_t n, double percent)
{
    return n - (int64_t)ceil((double)n * percent / 100);
}

static void begin_watch(struct fleet *fleet)
{
    struct slo *slo = &fleet->options.slo;
    int64_t with_tpot = 0;
    slo->ttft_percent = slo->ttft_percent > 0 ? slo->ttft_percent : 95;
    slo->tpot_percent = slo->tpot_percent > 0 ? slo->tpot_percent : 95;
    for (int64_t i = 0; i < fleet->workload->n; i++) {
        with_tpot += fleet->workload->requests[i].output_tokens > 1;
    }
    fleet->watch = (struct slo_watch){.ttft_s = slo->ttft_s,
                                      .tpot_s = slo->tpot_s,
                                      .ttft_allowed = allowed(fleet->workload->n, slo->ttft_percent),
                                      .tpot_allowed = allowed(with_tpot, slo->tpot_percent)};
}

static void add_replica(struct fleet_result *out, const struct serve_result *replica)
{
    double share = (double)replica->peak_pages / (double)replica->n_pages;
    out->busy_s += replica->busy_s;
    out->prefill_s += replica->prefill_s;
    out->sequence_s += replica->sequence_s;
    out->context_token_s += replica->context_token_s;
    out->peak_kv_share = share > out->peak_kv_share ? share : out->peak_kv_share;
    out->provenance = replica->provenance;
    for (int b = 0; b < BLOCKED_COUNT; b++) {
        out->blocked_s[b] += replica->blocked_s[b];
    }
    if (replica->first_rejection[0] && !out->first_rejection[0]) {
        memcpy(out->first_rejection, replica->first_rejection, sizeof out->first_rejection);
    }
}

int fleet_judge(struct fleet_result *out, const struct slo *slo, bool closed_loop)
{
    double ttft_percent = slo->ttft_percent > 0 ? slo->ttft_percent : 95;
    double tpot_percent = slo->tpot_percent > 0 ? slo->tpot_percent : 95;
    int error = serve_reduce(&out->metrics, out->records, out->n_records, slo->ttft_s, slo->tpot_s, closed_loop);
    error = error ? error : serve_percentile(&out->ttft_s, out->records, out->n_records, MEASURE_TTFT, ttft_percent);
    error = error ? error : serve_percentile(&out->tpot_s, out->records, out->n_records, MEASURE_TPOT, tpot_percent);
    out->ttft_within = !(slo->ttft_s > 0 && out->ttft_s > slo->ttft_s);
    out->tpot_within = !(slo->tpot_s > 0 && out->tpot_s > slo->tpot_s);
    out->within = out->metrics.finished == out->n_records && out->ttft_within && out->tpot_within;
    return error;
}

static int reduce(struct fleet *fleet)
{
    struct fleet_result *out = fleet->result;
    const struct slo_watch *watch = &fleet->watch;
    for (int32_t r = 0; r < out->n_replicas; r++) {
        add_replica(out, &out->replicas[r]);
    }
    if (watch->lost) {
        out->lost = true;
        out->ttft_within = watch->ttft_late <= watch->ttft_allowed;
        out->tpot_within = watch->tpot_late <= watch->tpot_allowed;
        return 0;
    }
    for (int32_t r = 0; r < out->n_replicas; r++) {
        out->stopped = out->stopped || out->replicas[r].stopped;
    }
    return fleet_judge(out, &fleet->options.slo, fleet->workload->users > 0);
}

// ---------------------------------------------------------------------------------------------------------------------
// Life

static int open_fleet(struct fleet *fleet)
{
    struct fleet_result *out = fleet->result;
    const struct workload *workload = fleet->workload;
    const struct serve_options *o = &fleet->options.replica;
    size_t replicas = (size_t)fleet->options.n_replicas;
    struct step_price_options price_options = {.device = o->device,
                                               .plan = o->plan,
                                               .timer = o->timer,
                                               .step_overhead_s = o->step_overhead_s,
                                               .max_seqs = o->max_seqs};
    int error = step_price_open(&fleet->price, &price_options);
    if (error) {
        return error;
    }
    out->records = serve_open_records(workload);
    out->replicas = calloc(replicas, sizeof *out->replicas);
    fleet->services = calloc(replicas, sizeof *fleet->services);
    if (!out->records || !out->replicas || !fleet->services) {
        return status_fail(-ENOMEM, "no memory to simulate %lld requests on %d replicas", (long long)workload->n,
                           fleet->options.n_replicas);
    }
    out->n_records = workload->n;
    out->n_replicas = fleet->options.n_replicas;
    for (int32_t r = 0; !error && r < fleet->options.n_replicas; r++) {
        struct service *service = &fleet->services[r];
        *service = (struct service){.workload = workload,
                                    .options = *o,
                                    .result = &out->replicas[r],
                                    .records = out->records,
                                    .price = fleet->price,
                                    .watch = fleet->options.stop_when_lost ? &fleet->watch : NULL};
        fleet->n_open++;
        error = service_open(service);
    }
    return error;
}

static int check(struct fleet_options *o)
{
    if (o->n_replicas < 1 || o->n_replicas > FLEET_MAX_REPLICAS) {
        return status_fail(-EINVAL, "%d replicas: expected 1 to %d", o->n_replicas, FLEET_MAX_REPLICAS);
    }
    o->replica.progress = NULL;
    return serve_complete_options(&o->replica);
}

int fleet_run(struct fleet_result *out, const struct workload *workload, const struct fleet_options *options)
{
    struct fleet fleet = {.workload = workload, .options = *options, .result = out};
    *out = (struct fleet_result){0};
    int error = check(&fleet.options);
    if (!error) {
        begin_watch(&fleet);
        error = open_fleet(&fleet);
    }
    if (!error) {
        bool blind = workload->users > 0 || fleet.options.router != ROUTER_LEAST_LOAD;
        error = blind ? route_blindly(&fleet) : route_by_load(&fleet);
    }
    error = error ? error : reduce(&fleet);
    if (!error && !out->lost && out->metrics.rejected == out->n_records) {
        error = status_fail(-EINVAL, "no request fits: %s", out->first_rejection);
    }
    for (int32_t r = 0; r < fleet.n_open; r++) {
        service_close(&fleet.services[r]);
    }
    free(fleet.services);
    step_price_close(fleet.price);
    if (error) {
        fleet_close(out);
    }
    return error;
}

void fleet_close(struct fleet_result *result)
{
    if (result) {
        free(result->records);
        free(result->replicas);
        *result = (struct fleet_result){0};
    }
}
