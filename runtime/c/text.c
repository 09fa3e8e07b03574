/* text.c - text in and out, by the bundle's tokenizer. */
#include "text.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "error.h"

#define MAX_TABLE_BYTES ((off_t)256 << 20)

enum edgept_status edgept_text_check(enum edgept_text_status status, struct edgept_error *error)
{
    switch (status) {
    case EDGEPT_TEXT_OK:
        return EDGEPT_OK;
    case EDGEPT_TEXT_NO_MEMORY:
        return edgept_no_memory(error, "a text");
    case EDGEPT_TEXT_NOT_UTF8:
        return edgept_fail(error, EDGEPT_USAGE, "", "the text is not UTF-8. Convert it first.");
    case EDGEPT_TEXT_TOO_LONG:
        return edgept_fail(error, EDGEPT_USAGE, "", "the text is too long to tokenize. Shorten it.");
    case EDGEPT_TEXT_NO_PAIR:
        return edgept_fail(error, EDGEPT_USAGE, "",
                           "this model's tokenizer puts nothing between two texts. Join them as the model was "
                           "trained: one text.");
    default:
        return edgept_fail(error, EDGEPT_FAILED, "", "the tokenizer stopped. Export the model again.");
    }
}

enum edgept_status edgept_text_open(struct edgept_bundle *bundle, const char *folder, const char *name,
                                    struct edgept_error *error)
{
    char path[4096];
    struct stat facts;
    const char *reason = "it is missing, a link or no regular file";
    enum edgept_text_status status = EDGEPT_TEXT_MALFORMED;
    snprintf(path, sizeof path, "%s/%s", folder, name);
    int descriptor = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOFOLLOW);
    if (descriptor >= 0 && fstat(descriptor, &facts) == 0 && S_ISREG(facts.st_mode) &&
        facts.st_size > 0 && facts.st_size <= MAX_TABLE_BYTES) {
        size_t size = (size_t)facts.st_size, done = 0;
        ssize_t got = 0;
        bundle->table = malloc(size);
        while (bundle->table != NULL && done < size) {
            got = read(descriptor, (char *)bundle->table + done, size - done);
            if (got <= 0 && !(got < 0 && errno == EINTR))
                break;
            done += got > 0 ? (size_t)got : 0;
        }
        reason = "it was cut short while it was read";
        if (bundle->table == NULL)
            status = EDGEPT_TEXT_NO_MEMORY;
        else if (done == size)
            status = edgept_tokenizer_load(bundle->table, size, &bundle->tokenizer, &reason);
    }
    if (descriptor >= 0)
        close(descriptor);
    if (status == EDGEPT_TEXT_MALFORMED)
        return edgept_fail(error, EDGEPT_INVALID_FILE, "tokenizer-malformed",
                           "%s: %s. Copy the bundle again, or export again.", path, reason);
    return edgept_text_check(status, error);
}

enum edgept_status edgept_text_begin(struct edgept_session *session, struct edgept_error *error)
{
    enum edgept_text_status status = edgept_workspace_create(&session->workspace);
    if (status == EDGEPT_TEXT_OK)
        status = edgept_text_stream_create(session->bundle->tokenizer, 1, &session->stream);
    return edgept_text_check(status, error);
}

static enum edgept_status check(const struct edgept_session *session, struct edgept_error *error)
{
    enum edgept_status status = edgept_session_check_reads(session, error);
    if (status || session->workspace != NULL)
        return status;
    return edgept_fail(error, EDGEPT_USAGE, "",
                       "this bundle has no tokenizer.bin, so it takes token ids only. Export a model folder that "
                       "holds its tokenizer.");
}

enum edgept_status edgept_session_encode(struct edgept_session *session, const char *text,
                                         const char *pair, int special_tokens,
                                         struct edgept_text *tokens, struct edgept_error *error)
{
    struct edgept_tokens found;
    enum edgept_status status = check(session, error);
    if (status)
        return status;
    const struct edgept_tokenizer *tokenizer = session->bundle->tokenizer;
    enum edgept_text_status encoded =
        pair == NULL
            ? edgept_tokenizer_encode(tokenizer, session->workspace, text, strlen(text), special_tokens, &found)
            : edgept_tokenizer_encode_pair(tokenizer, session->workspace, text, strlen(text), pair,
                                           strlen(pair), special_tokens, &found);
    if (encoded == EDGEPT_TEXT_OK)
        *tokens = (struct edgept_text){found.ids, found.types, found.count};
    return edgept_text_check(encoded, error);
}

enum edgept_status edgept_session_decode(struct edgept_session *session, const int64_t *ids, size_t count,
                                         const char **text, struct edgept_error *error)
{
    size_t size;
    enum edgept_status status = check(session, error);
    if (status)
        return status;
    return edgept_text_check(
        edgept_tokenizer_decode(session->bundle->tokenizer, session->workspace, ids, count, 1, text, &size), error);
}

enum edgept_status edgept_session_ask(struct edgept_session *session, const struct edgept_prompt *prompt,
                                      const char *question, const struct edgept_generate_options *options,
                                      struct edgept_generation *generation, struct edgept_error *error)
{
    double started = edgept_now_ms();
    struct edgept_generation made;
    struct edgept_text tokens;
    enum edgept_status status = edgept_session_encode(session, question, NULL, 1, &tokens, error);
    if (status)
        return status;
    double tokenized = edgept_now_ms() - started;
    status = edgept_session_generate(session, prompt, tokens.ids, tokens.count, options, &made, error);
    if (status)
        return status;
    made.latency.tokenize_ms = tokenized;
    if (made.count > 0)
        made.latency.ttft_ms += tokenized;
    made.latency.total_ms += tokenized;
    *generation = made;
    return EDGEPT_OK;
}
