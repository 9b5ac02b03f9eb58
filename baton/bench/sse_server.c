/* A trivial SSE server, so that a benchmark measures the generator and not the server.
   usage: sse_server PORT EVENTS GAP_MS. It answers every POST with EVENTS events, GAP_MS apart
   (0: all at once), then usage and [DONE]; every GET with a list of one model. One thread, epoll,
   a tick of 1 ms. Requests are told apart by their Content-Length; bodies are not looked at. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { MAX_FD = 65536, HEAD_LIMIT = 8192 };

typedef struct {
    char head[HEAD_LIMIT];
    int head_bytes;
    long body_left;
    int events_left;
    int is_get;
    int64_t due_us;
    int active_place; /* in active[], -1 if not there */
} Conn;

static Conn *conns[MAX_FD];
static int active[MAX_FD], num_active;
static int num_events;
static int64_t gap_us;

static const char HEAD[] =
    "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\n"
    "cache-control: no-cache\r\nx-request-id: cmpl-0123456789abcdef\r\n"
    "transfer-encoding: chunked\r\n\r\n";
static const char MODELS[] =
    "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 40\r\n\r\n"
    "{\"object\":\"list\",\"data\":[{\"id\":\"demo\"}]}";
static char event_chunk[512], end_chunk[1024];
static int event_bytes, end_bytes;

static int64_t now_us(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000LL + t.tv_nsec / 1000;
}

static int as_chunk(char *out, const char *data) {
    return sprintf(out, "%zx\r\n%s\r\n", strlen(data), data);
}

static void make_texts(void) {
    char body[768];
    const char *start =
        "data: {\"object\":\"text_completion\",\"id\":\"cmpl-0f3b8a5b7e7c4f8c9a0b1c2d3e4f5a6b\","
        "\"created\":1700000000,\"model\":\"demo\",\"choices\":[{\"index\":0,\"text\":\" word\","
        "\"finish_reason\":";
    sprintf(body, "%snull,\"logprobs\":null}],\"usage\":null}\n\n", start);
    event_bytes = as_chunk(event_chunk, body);
    sprintf(body,
            "%s\"length\",\"logprobs\":null}],\"usage\":null}\n\n"
            "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":16,\"completion_tokens\":%d}}\n\n"
            "data: [DONE]\n\n",
            start, num_events);
    end_bytes = as_chunk(end_chunk, body);
    end_bytes += sprintf(end_chunk + end_bytes, "0\r\n\r\n");
}

static void deactivate(int fd) {
    Conn *c = conns[fd];
    if (c->active_place < 0) return;
    int last = active[--num_active];
    active[c->active_place] = last;
    conns[last]->active_place = c->active_place;
    c->active_place = -1;
}

static void drop(int fd) {
    deactivate(fd);
    free(conns[fd]);
    conns[fd] = NULL;
    close(fd);
}

static int put(int fd, const char *data, int bytes) {
    while (bytes > 0) {
        ssize_t n = send(fd, data, bytes, MSG_NOSIGNAL);
        if (n < 0 && errno == EAGAIN) { usleep(50); continue; }
        if (n <= 0) return -1;
        data += n;
        bytes -= n;
    }
    return 0;
}

/* -1 when the connection is gone */
static int step(int fd) {
    Conn *c = conns[fd];
    if (c->events_left > 1) {
        c->events_left--;
        c->due_us += gap_us;
        return put(fd, event_chunk, event_bytes);
    }
    c->events_left = 0;
    deactivate(fd);
    return put(fd, end_chunk, end_bytes);
}

static int begin(int fd) {
    Conn *c = conns[fd];
    if (c->is_get) return put(fd, MODELS, sizeof MODELS - 1);
    if (put(fd, HEAD, sizeof HEAD - 1)) return -1;
    c->events_left = num_events;
    if (gap_us == 0) {
        static char all[1 << 20];
        int bytes = 0;
        for (int i = 1; i < num_events; i++) {
            memcpy(all + bytes, event_chunk, event_bytes);
            bytes += event_bytes;
        }
        memcpy(all + bytes, end_chunk, end_bytes);
        return put(fd, all, bytes + end_bytes);
    }
    c->due_us = now_us() + gap_us;
    c->active_place = num_active;
    active[num_active++] = fd;
    return 0;
}

/* -1 when the connection is gone */
static int take(int fd, const char *data, long bytes) {
    Conn *c = conns[fd];
    while (bytes > 0) {
        if (c->body_left > 0) {
            long n = bytes < c->body_left ? bytes : c->body_left;
            c->body_left -= n;
            data += n;
            bytes -= n;
            if (c->body_left == 0 && begin(fd)) return -1;
            continue;
        }
        if (c->head_bytes == HEAD_LIMIT - 1) return -1;
        c->head[c->head_bytes++] = *data++;
        bytes--;
        if (c->head_bytes >= 4 && !memcmp(c->head + c->head_bytes - 4, "\r\n\r\n", 4)) {
            c->head[c->head_bytes] = 0;
            char *length = strcasestr(c->head, "content-length:");
            c->body_left = length ? atol(length + 15) : 0;
            c->is_get = c->head[0] == 'G';
            c->head_bytes = 0;
            if (c->body_left == 0 && begin(fd)) return -1;
        }
    }
    return 0;
}

int main(int argc, char **argv) {
    if (argc != 4) return 2;
    num_events = atoi(argv[2]);
    gap_us = (int64_t)(atof(argv[3]) * 1000);
    make_texts();
    int one = 1, listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons(atoi(argv[1]))};
    inet_pton(AF_INET, "127.0.0.1", &at.sin_addr);
    if (bind(listener, (void *)&at, sizeof at) || listen(listener, 4096)) return 1;
    int epoll = epoll_create1(0);
    struct epoll_event ev = {.events = EPOLLIN, .data.fd = listener}, got[512];
    epoll_ctl(epoll, EPOLL_CTL_ADD, listener, &ev);
    static char buffer[1 << 18];
    for (;;) {
        int n = epoll_wait(epoll, got, 512, num_active ? 1 : -1);
        for (int i = 0; i < n; i++) {
            int fd = got[i].data.fd;
            if (fd == listener) {
                while ((fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK)) >= 0) {
                    if (fd >= MAX_FD) { close(fd); continue; }
                    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
                    conns[fd] = calloc(1, sizeof(Conn));
                    conns[fd]->active_place = -1;
                    ev.data.fd = fd;
                    epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &ev);
                }
                continue;
            }
            ssize_t bytes = recv(fd, buffer, sizeof buffer, 0);
            if (bytes < 0 && errno == EAGAIN) continue;
            if (bytes <= 0 || take(fd, buffer, bytes)) drop(fd);
        }
        int64_t now = now_us();
        for (int i = num_active - 1; i >= 0; i--) {
            int fd = active[i];
            if (conns[fd]->due_us <= now && step(fd)) drop(fd);
        }
    }
}
