/* hashes.c - edgept.sha256. */
#include "hashes.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "error.h"
#include "sha256.h"

#define MAX_LIST_BYTES (64u << 10)
#define DIGITS 64
#define MAX_PATH_BYTES 4096

/* Open a regular file of the bundle for reading; -1 where it is none, or a link. */
static int open_file(const char *folder, const char *name)
{
    char path[MAX_PATH_BYTES];
    struct stat facts;
    if ((size_t)snprintf(path, sizeof path, "%s/%s", folder, name) >= sizeof path)
        return -1;
    int descriptor = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOFOLLOW);
    if (descriptor >= 0 && (fstat(descriptor, &facts) != 0 || !S_ISREG(facts.st_mode))) {
        close(descriptor);
        return -1;
    }
    return descriptor;
}

/* The whole list, with a zero byte behind it; NULL with `status` set. */
static char *read_list(const char *folder, enum edgept_status *status, struct edgept_error *error)
{
    int descriptor = open_file(folder, EDGEPT_HASHES_NAME);
    if (descriptor < 0) {
        *status = edgept_fail(error, EDGEPT_UNTRUSTED, "",
                              "%s has no " EDGEPT_HASHES_NAME ", so nothing says what its files were. Export "
                              "again, or open it without check_hashes.",
                              folder);
        return NULL;
    }
    size_t size = 0;
    ssize_t got = 0;
    char *list = malloc(MAX_LIST_BYTES + 1);
    while (list != NULL && size < MAX_LIST_BYTES) {
        got = read(descriptor, list + size, MAX_LIST_BYTES - size);
        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0)
            break;
        size += (size_t)got;
    }
    close(descriptor);
    if (list == NULL) {
        *status = edgept_no_memory(error, EDGEPT_HASHES_NAME);
    } else if (got < 0 || size == MAX_LIST_BYTES || memchr(list, '\0', size) != NULL) {
        *status = edgept_fail(error, EDGEPT_INVALID_FILE, "hashes-malformed",
                              "%s/" EDGEPT_HASHES_NAME " is no list of hashes. Export again.", folder);
        free(list);
        list = NULL;
    } else {
        list[size] = '\0';
    }
    return list;
}

/* isalnum of the C locale, whatever the program has set. */
static bool is_alphanumeric(char character)
{
    return (character >= '0' && character <= '9') || (character >= 'A' && character <= 'Z') ||
           (character >= 'a' && character <= 'z');
}

static bool is_plain_name(const char *name)
{
    const char *rest = name;
    if (!is_alphanumeric(*rest))
        return false;
    while (is_alphanumeric(*rest) || (*rest != '\0' && strchr("._-", *rest) != NULL))
        rest++;
    return *rest == '\0';
}

/* One line, "<64 digits>  <name>", its end already cut off. */
static enum edgept_status check_line(const char *folder, const char *line, struct edgept_error *error)
{
    char hex[DIGITS + 1];
    const char *name = line + DIGITS + 2;
    if (strspn(line, "0123456789abcdef") != DIGITS || strncmp(line + DIGITS, "  ", 2) != 0 ||
        !is_plain_name(name))
        return edgept_fail(error, EDGEPT_INVALID_FILE, "hashes-malformed",
                           "%s/" EDGEPT_HASHES_NAME " holds a line that is no hash and plain file name. "
                           "Export again.",
                           folder);
    int descriptor = open_file(folder, name);
    if (descriptor < 0)
        return edgept_fail(error, EDGEPT_UNTRUSTED, "",
                           "%s/%s is missing or no regular file. Copy the whole bundle again.", folder,
                           name);
    bool was_read = edgept_sha256_file(descriptor, hex);
    close(descriptor);
    if (!was_read)
        return edgept_fail(error, EDGEPT_FAILED, "", "%s/%s cannot be read. Check the disk.", folder, name);
    if (memcmp(hex, line, DIGITS) != 0)
        return edgept_fail(error, EDGEPT_UNTRUSTED, "",
                           "%s/%s is not the file that was exported (SHA-256 %.12s..., expected %.12s...). "
                           "Copy the bundle again, or export again.",
                           folder, name, hex, line);
    return EDGEPT_OK;
}

static bool lists(const char *list, const char *name)
{
    size_t length = strlen(name);
    for (const char *at = list; (at = strstr(at, name)) != NULL; at++)
        if (at - list >= 2 && at[-1] == ' ' && at[-2] == ' ' && (at[length] == '\n' || at[length] == '\0'))
            return true;
    return false;
}

enum edgept_status edgept_hashes_check(const char *folder, const char *sha256,
                                       const char *const *needed, struct edgept_error *error)
{
    enum edgept_status status = EDGEPT_OK;
    char hex[DIGITS + 1];
    if (sha256 != NULL && (strlen(sha256) != DIGITS || strspn(sha256, "0123456789abcdef") != DIGITS))
        return edgept_fail(error, EDGEPT_USAGE, "",
                           "the option sha256 is no SHA-256: it takes 64 digits of 0-9 and a-f, as sha256sum "
                           "prints them.");
    char *list = read_list(folder, &status, error);
    if (list == NULL)
        return status;
    edgept_sha256_bytes(list, strlen(list), hex);
    if (sha256 != NULL && strcmp(hex, sha256) != 0)
        status = edgept_fail(error, EDGEPT_UNTRUSTED, "",
                             "%s/" EDGEPT_HASHES_NAME " has SHA-256 %.12s..., expected %.12s.... This is not "
                             "the bundle that was released: copy it again.",
                             folder, hex, sha256);
    for (; status == EDGEPT_OK && *needed != NULL; needed++)
        if (!lists(list, *needed))
            status = edgept_fail(error, EDGEPT_UNTRUSTED, "",
                                 "%s is not listed in %s/" EDGEPT_HASHES_NAME ". Export again.", *needed,
                                 folder);
    for (char *line = list; status == EDGEPT_OK && *line != '\0';) {
        char *end = strchr(line, '\n');
        char *next = end == NULL ? line + strlen(line) : end + 1;
        if (end != NULL)
            *end = '\0';
        status = check_line(folder, line, error);
        line = next;
    }
    free(list);
    return status;
}
