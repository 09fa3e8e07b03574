/* labels.c - the names of a head's classes, from the JSON array that a file holds as text. */
#include "labels.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "json.h"

bool edgept_has_control(const char *text, size_t length)
{
    for (size_t i = 0; i < length; i++) {
        unsigned char byte = (unsigned char)text[i];
        if (byte < 0x20 || byte == 0x7F ||
            (byte == 0xC2 && i + 1 < length && (unsigned char)text[i + 1] < 0xA0))
            return true;
    }
    return false;
}

/* The array's strings, one after the other; how many there are, or -1 where there is another value. */
static int unpack(const char *text, struct edgept_labels *labels, char *into, size_t room)
{
    struct edgept_json json = {text};
    int count = 0;
    edgept_json_open(&json);
    for (; edgept_json_next(&json); count++) {
        if (edgept_json_kind(&json) != '"')
            return -1;
        size_t length = edgept_json_string(&json, into, room);
        if (labels != NULL) {
            labels->names[count] = into;
            into += length + 1;
            room -= length + 1;
        }
    }
    return count;
}

static int compare_names(const void *left, const void *right)
{
    return strcmp(*(const char *const *)left, *(const char *const *)right);
}

enum edgept_status edgept_labels_parse(const char *text, size_t size, struct edgept_labels *labels,
                                       const char **found)
{
    struct edgept_json json = {text};
    size_t at;
    const char *reason = edgept_json_check(text, size, 1, &at);
    *found = "labels are not a JSON array of strings, or an empty one";
    if (reason != NULL)
        return strcmp(reason, "no-memory") == 0 ? EDGEPT_NO_MEMORY : EDGEPT_INVALID_FILE;
    int count = edgept_json_kind(&json) == '[' ? unpack(text, NULL, NULL, 0) : -1;
    if (count <= 0)
        return EDGEPT_INVALID_FILE;
    /* twice the pointers: those in the second half are sorted, to find what occurs twice */
    size_t names = (size_t)count * sizeof(char *);
    labels->names = malloc(2 * names + size + 1); /* a resolved text is no longer than it was */
    if (labels->names == NULL)
        return EDGEPT_NO_MEMORY;
    const char **sorted = labels->names + count;
    labels->count = (size_t)count;
    unpack(text, labels, (char *)(sorted + count), size + 1);
    memcpy(sorted, labels->names, names);
    qsort(sorted, labels->count, sizeof *sorted, compare_names);
    *found = "a label is empty, occurs twice or holds a control character";
    for (size_t i = 0; i < labels->count; i++)
        if (sorted[i][0] == '\0' || edgept_has_control(sorted[i], strlen(sorted[i])) ||
            (i > 0 && strcmp(sorted[i], sorted[i - 1]) == 0)) {
            free(labels->names);
            *labels = (struct edgept_labels){NULL, 0};
            return EDGEPT_INVALID_FILE;
        }
    return EDGEPT_OK;
}

enum edgept_status edgept_labels_copy(const struct edgept_labels *from, size_t classes,
                                      struct edgept_labels *labels)
{
    size_t count = from->count != 0 ? from->count : classes, bytes = 0;
    for (size_t i = 0; i < count; i++)
        bytes += from->count != 0 ? strlen(from->names[i]) + 1 : sizeof "LABEL_" + 20;
    const char **names = malloc(count * sizeof *names + bytes);
    if (names == NULL)
        return EDGEPT_NO_MEMORY;
    char *text = (char *)(names + count);
    for (size_t i = 0; i < count; i++) {
        names[i] = text;
        if (from->count != 0)
            text += strlen(strcpy(text, from->names[i])) + 1;
        else
            text += sprintf(text, "LABEL_%zu", i) + 1;
    }
    *labels = (struct edgept_labels){names, count};
    return EDGEPT_OK;
}
