// engine/input_file.c - see input_file.h.
#include "engine/input_file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "engine/status.h"

int input_file_error(int error)
{
    switch (error) {
    case ENOENT: case ENOTDIR: case EISDIR: case EACCES: case EPERM: case EROFS: case ELOOP: case ENAMETOOLONG:
        return -EINVAL;
    default:
        return -error;
    }
}

int input_file_open(int *descriptor, int64_t *bytes, const char *path)
{
    struct stat info;
    // Not blocking: a named pipe in a file's place must not wait for a writer.
    *descriptor = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (*descriptor < 0) {
        int error = errno;
        return status_fail(input_file_error(error), "%s: cannot read: %s", path, strerror(error));
    }
    if (fstat(*descriptor, &info) != 0 || !S_ISREG(info.st_mode)) {
        close(*descriptor);
        *descriptor = -1;
        return status_fail(-EINVAL, "%s: is not a regular file", path);
    }
    *bytes = info.st_size;
    return 0;
}

// Fewer bytes than asked for is no error: the file may have shrunk.
static int read_all(int descriptor, char *text, size_t *filled, size_t bytes, const char *path)
{
    while (*filled < bytes) {
        ssize_t got = read(descriptor, text + *filled, bytes - *filled);
        if (got == 0) {
            break;
        }
        if (got < 0 && errno != EINTR) {
            int error = errno;
            return status_fail(-error, "%s: cannot read: %s", path, strerror(error));
        }
        *filled += got > 0 ? (size_t)got : 0;
    }
    return 0;
}

int input_file_read(char **out, size_t *length, const char *path, int64_t max_bytes)
{
    *out = NULL;
    *length = 0;
    int descriptor;
    int64_t bytes;
    int error = input_file_open(&descriptor, &bytes, path);
    if (error) {
        return error;
    }
    char *text = NULL;
    if (bytes > max_bytes) {
        error = status_fail(-EINVAL, "%s: has %lld bytes; expected at most %lld", path, (long long)bytes,
                            (long long)max_bytes);
    } else if (!(text = malloc((size_t)bytes + 1))) {
        error = status_fail(-ENOMEM, "%s: out of memory for %lld bytes", path, (long long)bytes);
    }
    error = error ? error : read_all(descriptor, text, length, (size_t)bytes, path);
    close(descriptor);
    if (error) {
        free(text);
        return error;
    }
    text[*length] = 0;
    *out = text;
    return 0;
}
