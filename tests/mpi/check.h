/* Checks for programs that run on several ranks: a failing one names its rank and ends the whole job. */
#ifndef COX_TESTS_MPI_CHECK_H
#define COX_TESTS_MPI_CHECK_H

#include <mpi.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/status.h"

#define CHECK(condition, ...)                                                                             \
    do {                                                                                                  \
        if (!(condition)) {                                                                               \
            int rank_ = -1;                                                                               \
            MPI_Comm_rank(MPI_COMM_WORLD, &rank_);                                                        \
            fprintf(stderr, "%s:%d: rank %d: %s does not hold: ", __FILE__, __LINE__, rank_, #condition); \
            fprintf(stderr, __VA_ARGS__);                                                                 \
            fprintf(stderr, " [last message: %s]\n", cox_status_message());                               \
            MPI_Abort(MPI_COMM_WORLD, 1);                                                                 \
        }                                                                                                 \
    } while (0)

#define CHECK_OK(call) CHECK((call) == COX_OK, "expected OK")

#endif
