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
    volatile bool stop;            // serve.h reads it
    pthread_mutex_t mutex;         // over `report`
    struct job_report report;
    // Of the thread while it runs.
    struct plan plan;
    struct device device;
    double share;
    int32_t max_seqs;
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

static void finish(struct whatif_job *job, int error, const struct serve_result *result)
{
    pthread_mutex_lock(&job->mutex);
    if (error) {
        job->report.state = JOB_FAILED;
        snprintf(job->report.error, sizeof job->report.error, "%s", status_text());
    } else {
        job->report.state = job->stop ? JOB_CANCELLED : JOB_DONE;
        job->report.metrics = result->metrics;
    }
    pthread_mutex_unlock(&job->mutex);
}

static void *work(void *user)
{
    struct whatif_job *job = user;
    struct workload workload;
    struct serve_result *result = calloc(1, sizeof *result);
    struct workload_options load = {.rate_factor = job->share};
    int error = result ? workload_load(&workload, job->workload, &load) : status_fail(-ENOMEM, "out of memory");
    if (!error) {
        struct serve_options options = {.plan = &job->plan, .device = &job->device, .max_seqs = job->max_seqs,
                                        .progress = show_progress, .progress_user = job, .stop = &job->stop};
        show_progress(job, 0, workload.n);
        error = serve_run(result, &workload, &options);
        workload_close(&workload);
    }
    finish(job, error, result);
    if (result && !error) {
        serve_close(result);
    }
    free(result);
    return NULL;
}

int whatif_job_start(struct whatif_job *job, const struct plan *plan, const struct device *device, const char *workload,
                     double share, int32_t max_seqs)
{
    join(job);
    job->plan = *plan;
    job->device = *device;
    job->share = share;
    job->max_seqs = max_seqs;
    snprintf(job->workload, sizeof job->workload, "%s", workload);
    job->report = (struct job_report){.state = JOB_RUNNING};
    snprintf(job->report.workload, sizeof job->report.workload, "%s", workload);
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
    pthread_mutex_unlock(&job->mutex);
}
