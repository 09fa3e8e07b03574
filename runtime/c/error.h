/* error.h - how a function of this library fails: one status, one text for people. */
#ifndef EDGEPT_ERROR_H
#define EDGEPT_ERROR_H

#include "edgept.h"

/* Fill in the caller's error, where there is one, and give the status back, for `return`. */
__attribute__((format(printf, 4, 5))) enum edgept_status
edgept_fail(struct edgept_error *error, enum edgept_status status, const char *reason,
            const char *format, ...);

/* An allocation of `what` failed. */
enum edgept_status edgept_no_memory(struct edgept_error *error, const char *what);

/* Milliseconds of the monotonic clock. */
double edgept_now_ms(void);

#endif
