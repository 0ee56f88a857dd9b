// engine/output_file.c - write beside, sync, rename.
#include "engine/output_file.h"

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "engine/status.h"

static void forget(struct output_file *file)
{
    free(file->path);
    free(file->part);
    *file = (struct output_file){0};
}

int output_file_open(struct output_file *file, const char *path)
{
    *file = (struct output_file){0};
    struct stat info;
    if (stat(path, &info) == 0 && S_ISDIR(info.st_mode)) {
        return status_fail(-EISDIR, "%s: is a directory; name a file to write", path);
    }
    file->path = strdup(path);
    if (!file->path || asprintf(&file->part, "%s.part-%ld", path, (long)getpid()) < 0) {
        file->part = NULL;
        forget(file);
        return status_fail(-ENOMEM, "%s: out of memory", path);
    }
    file->stream = fopen(file->part, "wbe");
    if (!file->stream) {
        int error = errno;
        forget(file);
        return status_fail(-error, "%s: cannot write: %s", path, strerror(error));
    }
    return 0;
}

int output_file_check(const char *path)
{
    struct stat info;
    struct output_file file;
    bool there = stat(path, &info) == 0;
    if (there && !S_ISDIR(info.st_mode) && access(path, W_OK) != 0) {
        return status_fail(-errno, "%s: cannot write: %s", path, strerror(errno));
    }
    if (there && !S_ISDIR(info.st_mode) && !S_ISREG(info.st_mode)) {
        return 0;    // a pipe: nothing stands beside it
    }
    int error = output_file_open(&file, path);
    if (!error) {
        output_file_abandon(&file);
    }
    return error;
}

int output_file_commit(struct output_file *file)
{
    // Order matters: data must be on the disk before the name points to it.
    int error = 0;
    if (ferror(file->stream)) {
        error = EIO;
    }
    if (fflush(file->stream) != 0 || fsync(fileno(file->stream)) != 0) {
        error = errno;
    }
    if (fclose(file->stream) != 0 && !error) {
        error = errno;
    }
    file->stream = NULL;
    if (!error && rename(file->part, file->path) != 0) {
        error = errno;
    }
    int result = 0;
    if (error) {
        unlink(file->part);
        result = status_fail(-error, "%s: cannot write: %s; nothing was left behind", file->path, strerror(error));
    }
    forget(file);
    return result;
}

void output_file_abandon(struct output_file *file)
{
    if (file->stream) {
        fclose(file->stream);
        unlink(file->part);
    }
    forget(file);
}
