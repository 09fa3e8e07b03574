/* error.c - errors, the version and the clock. */
#include "error.h"

#include <stdarg.h>
#include <stdio.h>
#include <time.h>

const char *edgept_version(void)
{
    return EDGEPT_VERSION_STRING;
}

enum edgept_status edgept_fail(struct edgept_error *error, enum edgept_status status,
                               const char *reason, const char *format, ...)
{
    if (error != NULL) {
        va_list arguments;
        snprintf(error->reason, sizeof error->reason, "%s", reason);
        va_start(arguments, format);
        vsnprintf(error->message, sizeof error->message, format, arguments);
        va_end(arguments);
    }
    return status;
}

enum edgept_status edgept_no_memory(struct edgept_error *error, const char *what)
{
    return edgept_fail(error, EDGEPT_NO_MEMORY, "",
                       "no memory for %s. Free some, or ask for a shorter sequence.", what);
}

double edgept_now_ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec * 1e3 + (double)now.tv_nsec / 1e6;
}
