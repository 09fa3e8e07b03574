/* error.c - errors, the version and the clock. */
#include "error.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

const char *edgept_version(void)
{
    return EDGEPT_VERSION_STRING;
}

/* Drop a character that the end of a full buffer has cut apart. */
static void cut_to_characters(char *text)
{
    size_t end = strlen(text), begin = end;
    while (begin > 0 && end - begin < 3 && ((unsigned char)text[begin - 1] & 0xC0) == 0x80)
        begin--;
    if (begin == 0)
        return;
    unsigned char first = (unsigned char)text[begin - 1];
    size_t bytes = first >= 0xF0 ? 4 : first >= 0xE0 ? 3 : first >= 0xC0 ? 2 : 1;
    if (bytes > 1 && end - begin + 1 < bytes)
        text[begin - 1] = '\0';
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
        cut_to_characters(error->message);
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
