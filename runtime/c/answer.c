/*
 * answer.c - the text of a generation: its pieces, and the stop strings that end it.
 *
 * As in the Python runtime (stop.py), a stop string may be cut by tokens in any way: text that may be the
 * beginning of one is held back until it is certain. Texts and stop strings are UTF-8, in which no character
 * is found inside another, so bytes are compared.
 */
#include "answer.h"

#include <string.h>

#include "error.h"
#include "text.h"

enum edgept_status edgept_answer_begin(struct edgept_session *session,
                                       const struct edgept_generate_options *options,
                                       struct edgept_error *error)
{
    bool wants_text = options->on_text != NULL || options->stop_string_count > 0;
    if (wants_text && session->stream == NULL)
        return edgept_fail(error, EDGEPT_USAGE, "",
                           "on_text and stop strings need a tokenizer, and this bundle has no tokenizer.bin. Export "
                           "a model folder that holds its tokenizer.");
    for (size_t i = 0; i < options->stop_string_count; i++)
        if (options->stop_strings[i] == NULL || options->stop_strings[i][0] == '\0')
            return edgept_fail(error, EDGEPT_USAGE, "",
                               "a stop string is a text of at least one character, number %zu is empty. Leave it out.",
                               i);
    struct edgept_buffer text = session->answer.text;
    session->answer = (struct edgept_answer){.options = options, .text = text};
    if (session->stream == NULL)
        return EDGEPT_OK;
    edgept_text_stream_reset(session->stream);
    return edgept_session_room(session, &session->answer.text, 1, 0, error);
}

/* Call on_text with what is certain now, up to `end`; a piece ends at a zero character, as texts do in C. */
static bool show(struct edgept_answer *answer, size_t end)
{
    char *text = answer->text.data, after = text[end];
    const struct edgept_generate_options *options = answer->options;
    bool ends = false;
    text[end] = '\0';
    for (size_t at = answer->shown; at < end; at += strlen(text + at) + 1)
        if (text[at] != '\0' && options->on_text != NULL && !answer->is_quiet &&
            options->on_text(options->user, text + at) != 0)
            ends = answer->is_quiet = true;
    text[end] = after;
    answer->shown = end;
    return ends;
}

/* Where the stop string begins that is complete first, of two the longer; `size` without one. */
static size_t find_stop(const struct edgept_generate_options *options, const char *text, size_t size)
{
    size_t found = size, found_end = SIZE_MAX;
    for (size_t i = 0; i < options->stop_string_count; i++) {
        const char *stop = options->stop_strings[i];
        size_t length = strlen(stop);
        for (size_t at = 0; at + length <= size; at++) {
            if (memcmp(text + at, stop, length) != 0)
                continue;
            if (at + length < found_end || (at + length == found_end && at < found)) {
                found = at;
                found_end = at + length;
            }
            break;
        }
    }
    return found;
}

/* Length of the longest end of a text that a stop string begins with. */
static size_t beginning(const struct edgept_generate_options *options, const char *text, size_t size)
{
    size_t longest = 0;
    for (size_t i = 0; i < options->stop_string_count; i++) {
        size_t length = strlen(options->stop_strings[i]) - 1;
        for (length = length < size ? length : size; length > longest; length--)
            if (memcmp(text + size - length, options->stop_strings[i], length) == 0)
                longest = length;
    }
    return longest;
}

/* Take a piece of text; at the end nothing is held back. */
static enum edgept_status take(struct edgept_session *session, const char *piece, size_t size, bool is_last,
                               bool *stops, struct edgept_error *error)
{
    struct edgept_answer *answer = &session->answer;
    size_t needed = answer->size + size + 1;
    if (needed > answer->text.bytes) { /* twice as much, so that growing is rare */
        enum edgept_status status = edgept_session_room(session, &answer->text, 2 * needed, answer->size, error);
        if (status)
            return status;
    }
    char *text = answer->text.data, *held = text + answer->shown;
    memcpy(text + answer->size, piece, size);
    answer->size += size;
    size_t length = answer->size - answer->shown, found = find_stop(answer->options, held, length);
    if (found < length) {
        answer->was_stopped = true;
        answer->size = answer->shown + found;
        length = found;
    } else if (!is_last) {
        length -= beginning(answer->options, held, length);
    }
    bool ends = show(answer, answer->shown + length);
    *stops = answer->was_stopped || (ends && !is_last);
    return EDGEPT_OK;
}

enum edgept_status edgept_answer_add(struct edgept_session *session, int64_t token, bool *stops,
                                     struct edgept_error *error)
{
    const char *piece;
    size_t size;
    if (session->stream == NULL)
        return EDGEPT_OK;
    enum edgept_status status =
        edgept_text_check(edgept_text_stream_push(session->stream, token, &piece, &size), error);
    return status ? status : take(session, piece, size, false, stops, error);
}

enum edgept_status edgept_answer_finish(struct edgept_session *session, bool *stops, struct edgept_error *error)
{
    const char *piece;
    size_t size;
    if (session->stream == NULL || session->answer.was_stopped)
        return EDGEPT_OK;
    enum edgept_status status =
        edgept_text_check(edgept_text_stream_finish(session->stream, &piece, &size), error);
    return status ? status : take(session, piece, size, true, stops, error);
}

const char *edgept_answer_text(const struct edgept_session *session)
{
    const struct edgept_answer *answer = &session->answer;
    if (session->stream == NULL)
        return NULL;
    ((char *)answer->text.data)[answer->size] = '\0';
    return answer->text.data;
}
