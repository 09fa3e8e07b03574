/* prompt_file.c - read a prompt file: rules 1 and 6 of edgept/prompt_file.md; safetensors.c has the others. */
#include "prompt_file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "error.h"
#include "json.h"
#include "labels.h"
#include "safetensors.h"

#define MIN_BYTES 16
#define MAX_BYTES (16u << 20)

enum metadata_key { FORMAT, FORMAT_VERSION, FINGERPRINT, METHOD, TASK, NAME, LABELS };

static const struct {
    const char *name;
    size_t max_bytes; /* of UTF-8 */
    bool required;
} metadata_keys[EDGEPT_METADATA_KEYS] = {
    {"format", 64, true}, {"format_version", 64, true}, {"fingerprint", 64, true},
    {"method", 64, true}, {"task", 64, true},           {"name", 256, true},
    {"labels", 32768, false}, {"base_model", 1024, false}, {"created_by", 256, false}};

/* ---- rule 1: the file ---- */

static enum edgept_status check_size(uint64_t size, uint64_t max_bytes, struct edgept_error *error)
{
    if (size < MIN_BYTES)
        return edgept_invalid(error, "file-too-small", "a prompt file has at least 16 bytes");
    if (size > max_bytes)
        return edgept_invalid(error, "file-too-large",
                       "the file is over the limit of a prompt file; is it a whole model?");
    return EDGEPT_OK;
}

/* ---- rule 6: the metadata ---- */

static bool is_fingerprint(const char *text)
{
    return strlen(text) == 64 && strspn(text, "0123456789abcdef") == 64;
}

/* One value by its own rules; NULL, or the reason. */
static const char *check_value(size_t key, const char *text, size_t length)
{
    if (length > metadata_keys[key].max_bytes)
        return "metadata-too-long";
    if (edgept_has_control(text, length))
        return "metadata-control";
    if (key == FORMAT && strcmp(text, "edgept-prompt") != 0)
        return "metadata-format";
    if (key == FORMAT_VERSION && strcmp(text, "1") != 0)
        return "metadata-version";
    if (key == FINGERPRINT && !is_fingerprint(text))
        return "metadata-fingerprint";
    return NULL;
}

/* Find the metadata's values in a checked header; NULL, or the reason. */
static const char *find_values(const char *header, const char *values[EDGEPT_METADATA_KEYS])
{
    struct edgept_json json = {header};
    char key[24];
    edgept_json_open(&json);
    while (edgept_json_next(&json)) {
        size_t length = edgept_json_string(&json, key, sizeof key);
        if (!edgept_json_is(key, "__metadata__", length)) {
            edgept_json_skip(&json);
            continue;
        }
        if (edgept_json_kind(&json) != '{')
            return "metadata-type";
        edgept_json_open(&json);
        while (edgept_json_next(&json)) {
            length = edgept_json_string(&json, key, sizeof key);
            if (edgept_json_kind(&json) != '"')
                return "metadata-type";
            for (size_t i = 0; i < EDGEPT_METADATA_KEYS; i++)
                if (edgept_json_is(key, metadata_keys[i].name, length))
                    values[i] = json.at;
            edgept_json_skip(&json);
        }
        return NULL;
    }
    return "metadata-missing";
}

static enum edgept_status read_metadata(const char *header, struct edgept_prompt_file *file,
                                        struct edgept_error *error)
{
    const char *values[EDGEPT_METADATA_KEYS] = {NULL};
    const char *reason = find_values(header, values);
    for (size_t i = 0; reason == NULL && i < EDGEPT_METADATA_KEYS; i++) {
        if (values[i] == NULL) {
            reason = metadata_keys[i].required ? "metadata-missing" : NULL;
            continue;
        }
        size_t room = metadata_keys[i].max_bytes + 1;
        struct edgept_json json = {values[i]};
        size_t length = edgept_json_string(&json, NULL, 0);
        if (length >= room) {
            reason = "metadata-too-long";
            continue;
        }
        file->metadata[i] = malloc(length + 1);
        if (file->metadata[i] == NULL)
            return edgept_no_memory(error, "a prompt's metadata");
        json.at = values[i];
        edgept_json_string(&json, file->metadata[i], length + 1);
        reason = check_value(i, file->metadata[i], length);
    }
    if (reason != NULL)
        return edgept_invalid(error, reason, "the metadata is not that of a prompt");
    if (file->metadata[LABELS] == NULL)
        return EDGEPT_OK;
    const char *found, *text = file->metadata[LABELS];
    enum edgept_status status = edgept_labels_parse(text, strlen(text), &file->labels, &found);
    if (status == EDGEPT_NO_MEMORY)
        return edgept_no_memory(error, "a prompt's labels");
    const struct edgept_tensor *weight = &file->tensors[EDGEPT_HEAD_WEIGHT];
    if (status)
        return edgept_invalid(error, "metadata-labels", found);
    if (weight->values != NULL && weight->shape[0] != file->labels.count)
        return edgept_invalid(error, "metadata-labels", "there is not one label for each row of the head");
    return EDGEPT_OK;
}

/* ---- the whole ---- */

static enum edgept_status read_source(struct edgept_source *source, struct edgept_prompt_file **out,
                                      struct edgept_error *error)
{
    char *header = NULL;
    struct edgept_prompt_file *file = calloc(1, sizeof *file);
    if (file == NULL)
        return edgept_no_memory(error, "a prompt file");
    enum edgept_status status = edgept_safetensors_read(source, file->tensors, &header, error);
    if (status == EDGEPT_OK)
        status = read_metadata(header, file, error);
    free(header);
    if (status)
        edgept_prompt_file_free(file);
    else
        *out = file;
    return status;
}

enum edgept_status edgept_prompt_file_parse(const void *data, size_t size, size_t max_bytes,
                                            struct edgept_prompt_file **file,
                                            struct edgept_error *error)
{
    struct edgept_source source = {.descriptor = -1, .data = data, .left = size};
    enum edgept_status status = check_size(size, max_bytes == 0 ? MAX_BYTES : max_bytes, error);
    return status ? status : read_source(&source, file, error);
}

enum edgept_status edgept_prompt_file_read(const char *path, size_t max_bytes,
                                           struct edgept_prompt_file **file,
                                           struct edgept_error *error)
{
    /* O_NONBLOCK: opening a FIFO must not wait for a writer */
    struct edgept_source source = {.descriptor = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOFOLLOW)};
    struct stat facts;
    if (source.descriptor < 0) {
        if (errno == ELOOP)
            return edgept_invalid(error, "file-is-link", "the file is a symbolic link");
        if (errno == ENXIO || errno == ENODEV) /* a socket, a device without a driver */
            return edgept_invalid(error, "file-not-regular", "a regular file is expected");
        return edgept_fail(error, EDGEPT_USAGE, "", "cannot read %s: %s. Check the path.", path,
                           strerror(errno));
    }
    enum edgept_status status = EDGEPT_OK;
    if (fstat(source.descriptor, &facts) != 0 || !S_ISREG(facts.st_mode))
        status = edgept_invalid(error, "file-not-regular", "a regular file is expected");
    else
        status = check_size((uint64_t)facts.st_size, max_bytes == 0 ? MAX_BYTES : max_bytes, error);
    source.left = (uint64_t)facts.st_size;
    if (status == EDGEPT_OK)
        status = read_source(&source, file, error);
    close(source.descriptor);
    return status;
}

void edgept_prompt_file_free(struct edgept_prompt_file *file)
{
    if (file == NULL)
        return;
    for (size_t i = 0; i < EDGEPT_TENSOR_NAMES; i++)
        free(file->tensors[i].values);
    for (size_t i = 0; i < EDGEPT_METADATA_KEYS; i++)
        free(file->metadata[i]);
    free(file->labels.names);
    free(file);
}

const char *edgept_prompt_file_metadata(const struct edgept_prompt_file *file, const char *key)
{
    for (size_t i = 0; i < EDGEPT_METADATA_KEYS; i++)
        if (strcmp(key, metadata_keys[i].name) == 0)
            return file->metadata[i];
    return NULL;
}

const float *edgept_prompt_file_tensor(const struct edgept_prompt_file *file, const char *name,
                                       size_t shape[5], size_t *rank)
{
    for (size_t i = 0; i < EDGEPT_TENSOR_NAMES; i++)
        if (strcmp(name, edgept_tensor_names[i]) == 0 && file->tensors[i].values != NULL) {
            memcpy(shape, file->tensors[i].shape, sizeof file->tensors[i].shape);
            *rank = file->tensors[i].rank;
            return file->tensors[i].values;
        }
    return NULL;
}

size_t edgept_prompt_file_label_count(const struct edgept_prompt_file *file)
{
    return file->labels.count;
}

const char *edgept_prompt_file_label(const struct edgept_prompt_file *file, size_t index)
{
    return index < file->labels.count ? file->labels.names[index] : NULL;
}
