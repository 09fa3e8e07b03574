/* labels.h - the names of a head's classes. */
#ifndef EDGEPT_LABELS_H
#define EDGEPT_LABELS_H

#include <stdbool.h>

#include "edgept.h"

/* One block of memory, which begins at `names`. */
struct edgept_labels {
    const char **names;
    size_t count;
};

/*
 * Read a JSON array of distinct, non-empty strings without control characters. On failure `found` gets
 * what is wrong with it; the status is EDGEPT_INVALID_FILE or EDGEPT_NO_MEMORY.
 */
enum edgept_status edgept_labels_parse(const char *text, size_t size, struct edgept_labels *labels,
                                       const char **found);

/* A copy of them, or LABEL_0, LABEL_1, ... for so many classes where there are none. */
enum edgept_status edgept_labels_copy(const struct edgept_labels *from, size_t classes,
                                      struct edgept_labels *labels);

/* U+0000 to U+001F and U+007F to U+009F, in strict UTF-8. */
bool edgept_has_control(const char *text, size_t length);

#endif
