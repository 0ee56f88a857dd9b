// tui/whatif_job.c - the thread that simulates.
#include "tui/whatif_job.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/status.h"
#include "sim/serve.h"

struct whatif_job {
    pthread_t thread;
    bool started;                  // a thread is to be joined
    _Atomic bool stop;             // serve.h reads it
    pthread_mutex_t mutex;         // over `report`
    struct job_report report;
    // Of the thread while it runs.
    struct job_question question;
    struct plan plan;
    struct device device;
    char workload[64];
};

int whatif_job_open(struct whatif_job **out)
{
    *out = calloc(1, sizeof **out);
    if (!*out) {
        return status_fail(-ENOMEM, "out of memory for a simulation");
    }
    pthread_mutex_init(&(*out)->mutex, NULL);
    return 0;
}

static void join(struct whatif_job *job)
{
    if (job->started) {
        job->stop = true;
        pthread_join(job->thread, NULL);
        job->started = false;
    }
}

void whatif_job_close(struct whatif_job *job)
{
    if (job) {
        join(job);
        pthread_mutex_destroy(&job->mutex);
        free(job);
    }
}

static void show_progress(void *user, int64_t finished, int64_t total)
{
    struct whatif_job *job = user;
    pthread_mutex_lock(&job->mutex);
    job->report.finished = finished;
    job->report.total = total;
    pthread_mutex_unlock(&job->mutex);
}

static void finish(struct whatif_job *job, int error)
{
    pthread_mutex_lock(&job->mutex);
    if (error) {
        job->report.state = JOB_FAILED;
        snprintf(job->report.error, sizeof job->report.error, "%s", status_text());
    } else {
        job->report.state = job->stop ? JOB_CANCELLED : JOB_DONE;
    }
    pthread_mutex_unlock(&job->mutex);
}

static int simulate(struct whatif_job *job, const struct workload *workload)
{
    struct serve_result *result = calloc(1, sizeof *result);
    struct serve_options options = {.plan = &job->plan, .device = &job->device, .max_seqs = job->question.max_seqs,
                                    .progress = show_progress, .progress_user = job, .stop = &job->stop};
    show_progress(job, 0, workload->n);
    int error = result ? serve_run(result, workload, &options) : status_fail(-ENOMEM, "out of memory");
    if (!error) {
        pthread_mutex_lock(&job->mutex);
        job->report.metrics = result->metrics;
        pthread_mutex_unlock(&job->mutex);
        serve_close(result);
    }
    free(result);
    return error;
}

static int search(struct whatif_job *job, const struct workload *workload)
{
    struct planner_options options = {
        .replica = {.plan = &job->plan, .device = &job->device, .stop = &job->stop},
        .slo = job->question.slo, .router = ROUTER_LEAST_LOAD, .price_per_hour = job->device.price_per_hour.value,
        .headroom = true,
    };
    struct planner_answer answer;
    int error = planner_smallest(&answer, workload, &options);
    if (!error) {
        pthread_mutex_lock(&job->mutex);
        job->report.answer = answer;
        job->report.metrics = answer.metrics;
        pthread_mutex_unlock(&job->mutex);
    }
    return error;
}

// How much faster than in its description the workload is to come.
static int rate_factor(double *out, const struct job_question *question, const char *name)
{
    struct workload workload;
    struct workload_statistics statistics;
    *out = question->fleet ? 1 : question->share;
    if (!(question->rate_per_s > 0)) {
        return 0;
    }
    int error = workload_load(&workload, name, NULL);
    if (error) {
        return error;
    }
    error = workload_measure(&statistics, &workload);
    workload_close(&workload);
    if (!error && !(statistics.rate_per_s > 0)) {
        error = status_fail(-EINVAL, "%s has no rate: its requests come as answers end, or all at once", name);
    }
    *out *= error ? 1 : question->rate_per_s / statistics.rate_per_s;
    return error;
}

static void *work(void *user)
{
    struct whatif_job *job = user;
    struct workload workload;
    struct workload_options load = {.rate_factor = 1, .output_tokens = job->question.output_tokens};
    int error = rate_factor(&load.rate_factor, &job->question, job->workload);
    error = error ? error : workload_load(&workload, job->workload, &load);
    if (!error) {
        error = job->question.fleet ? search(job, &workload) : simulate(job, &workload);
        workload_close(&workload);
    }
    finish(job, error);
    return NULL;
}

int whatif_job_start(struct whatif_job *job, const struct job_question *question)
{
    join(job);
    job->question = *question;
    job->plan = *question->plan;
    job->device = *question->device;
    snprintf(job->workload, sizeof job->workload, "%s", question->workload);
    job->report = (struct job_report){.state = JOB_RUNNING, .fleet = question->fleet};
    snprintf(job->report.workload, sizeof job->report.workload, "%s", question->workload);
    job->stop = false;
    int error = pthread_create(&job->thread, NULL, work, job);
    if (error) {
        job->report.state = JOB_NONE;
        return status_fail(-error, "the simulation's thread cannot be started: %s", strerror(error));
    }
    job->started = true;
    return 0;
}

void whatif_job_cancel(struct whatif_job *job)
{
    job->stop = true;
}

void whatif_job_report(struct whatif_job *job, struct job_report *out)
{
    pthread_mutex_lock(&job->mutex);
    *out = job->report;
    if (out->state == JOB_RUNNING && job->stop) {    // the thread may still be reading its workload
        out->state = JOB_CANCELLED;
    }
    pthread_mutex_unlock(&job->mutex);
}
