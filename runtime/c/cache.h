/* cache.h - what a session's cache does; the struct is in session.h. */
#ifndef EDGEPT_CACHE_H
#define EDGEPT_CACHE_H

#include "session.h"

/* Forget the session's tensors: their memory moves, has other contents, or goes. */
void edgept_cache_drop(struct edgept_session *session);

/* Give its memory back, so that a request that did not fit takes nothing from the next one. */
void edgept_cache_release(struct edgept_session *session);

/* Start a sequence, with a prompt's keys and values or with nothing, in room for `capacity` tokens. */
enum edgept_status edgept_cache_begin(struct edgept_session *session, const struct edgept_prompt *prompt,
                                      size_t capacity, struct edgept_error *error);

/* Make room for so many tokens; what is there stays. */
enum edgept_status edgept_cache_reserve(struct edgept_session *session, size_t capacity,
                                        struct edgept_error *error);

/* The past as inputs and the present, `added` columns longer, as outputs: the first of the session's tensors. */
enum edgept_status edgept_cache_place(struct edgept_session *session, size_t added,
                                      struct edgept_error *error);

/* What was run is the new past. */
void edgept_cache_advance(struct edgept_session *session, size_t added);

/* Copy what the cache holds, (2 * layers, kv_heads, length, head_dim). */
void edgept_cache_copy(const struct edgept_session *session, void *into);

#endif
