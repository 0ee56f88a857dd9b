// sim/affinity.h - where a router sends requests so that those that begin alike meet.
//
// A pure function of the workload: the router remembers where it sent what and does not look at the replicas. Requests
// of one prefix go to one replica, prefixes in turn as they first appear. Where prompts are made of blocks, a request
// of which half or more has been seen goes where the longest part of it went last; all others go in turn.
#pragma once

#include "workloads/workload.h"

// replica [workload->n]: of n_replicas. -ENOMEM.
int affinity_route(int32_t *replica, const struct workload *workload, int32_t n_replicas);
