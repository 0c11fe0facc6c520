/* A bare epoll server: what the system calls alone cost. It keeps no queue: who does not read is not read from.

   server BEHAVIOUR     echo, relay (the same), upload (reads and drops), fanout, churn; prints `listening PORT` */

#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

enum { BUFFER = 1 << 16, EVENTS = 512, MOST = 1 << 16, REQUEST = 1 << 12 };

struct connection {
    char *rest;         /* what the kernel did not take */
    size_t unsent;
    char *request;      /* churn: what came so far */
    size_t requested;
    int speaks;
};

static char buffer[BUFFER];
static struct epoll_event events[EVENTS];
static struct connection connections[MOST];
static int members[MOST], member_count;
static int poller, listener;

static void die(const char *what)
{
    perror(what);
    exit(1);
}

static void watch(int operation, int fd, uint32_t interest)
{
    struct epoll_event event = {.events = interest, .data.fd = fd};
    if (epoll_ctl(poller, operation, fd, &event))
        die("epoll_ctl");
}

static void end(int fd)
{
    for (int i = 0; i < member_count; i++)
        if (members[i] == fd)
            members[i--] = members[--member_count];
    free(connections[fd].rest);
    free(connections[fd].request);
    memset(&connections[fd], 0, sizeof connections[fd]);
    close(fd);
}

static void give(int fd, const char *data, size_t size)
{
    struct connection *c = &connections[fd];
    ssize_t sent = c->unsent ? 0 : send(fd, data, size, MSG_NOSIGNAL);
    if (sent < 0)
        sent = 0;
    if ((size_t)sent == size)
        return;
    if (!c->unsent)
        watch(EPOLL_CTL_MOD, fd, EPOLLOUT);
    c->rest = realloc(c->rest, c->unsent + size - sent);
    memcpy(c->rest + c->unsent, data + sent, size - sent);
    c->unsent += size - sent;
}

static void give_rest(int fd)
{
    struct connection *c = &connections[fd];
    ssize_t sent = send(fd, c->rest, c->unsent, MSG_NOSIGNAL);
    if (sent < 0 && errno != EAGAIN) {
        end(fd);
        return;
    }
    if (sent > 0) {
        c->unsent -= sent;
        memmove(c->rest, c->rest + sent, c->unsent);
    }
    if (!c->unsent)
        watch(EPOLL_CTL_MOD, fd, EPOLLIN);
}

static void echo(int fd, size_t size)
{
    if (size)
        give(fd, buffer, size);
    else
        end(fd);
}

static void upload(int fd, size_t size)
{
    if (!size)
        end(fd);
}

static void fanout(int fd, size_t size)
{
    if (!size) {
        end(fd);
        return;
    }
    if (!connections[fd].speaks) {
        connections[fd].speaks = 1;
        for (int i = 0; i < member_count; i++)
            if (members[i] == fd)
                members[i--] = members[--member_count];
    }
    for (char *line = buffer, *last = buffer + size, *next; line < last; line = next) {
        next = memchr(line, '\n', last - line);
        next = next ? next + 1 : last;
        for (int i = 0; i < member_count; i++)
            give(members[i], line, next - line);
    }
}

static void churn(int fd, size_t size)
{
    struct connection *c = &connections[fd];
    if (size && c->requested + size <= REQUEST) {
        c->request = c->request ? c->request : malloc(REQUEST);
        memcpy(c->request + c->requested, buffer, size);
        c->requested += size;
        return;
    }
    give(fd, c->request, c->requested);
    end(fd);
}

int main(int argc, char **argv)
{
    void (*serve)(int, size_t) = NULL;
    static const struct { const char *name; void (*serve)(int, size_t); } behaviours[] = {
        {"echo", echo}, {"relay", echo}, {"upload", upload}, {"fanout", fanout}, {"churn", churn}};
    for (size_t i = 0; argc > 1 && i < sizeof behaviours / sizeof *behaviours; i++)
        if (!strcmp(behaviours[i].name, argv[1]))
            serve = behaviours[i].serve;
    if (!serve)
        return 2;
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t length = sizeof address;
    int one = 1;
    poller = epoll_create1(0);
    listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    setsockopt(listener, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    if (bind(listener, (struct sockaddr *)&address, sizeof address) || listen(listener, 4096))
        die("listen");
    getsockname(listener, (struct sockaddr *)&address, &length);
    watch(EPOLL_CTL_ADD, listener, EPOLLIN);
    printf("listening %d\n", ntohs(address.sin_port));
    fflush(stdout);
    for (;;) {
        int ready = epoll_wait(poller, events, EVENTS, -1);
        for (int i = 0; i < ready; i++) {
            int fd = events[i].data.fd;
            if (fd == listener) {
                while ((fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK)) >= 0) {
                    if (fd >= MOST)
                        die("too many connections");
                    watch(EPOLL_CTL_ADD, fd, EPOLLIN);
                    members[member_count++] = fd;
                }
                continue;
            }
            if (events[i].events & EPOLLOUT) {
                give_rest(fd);
                continue;
            }
            ssize_t size = recv(fd, buffer, BUFFER, 0);
            if (size < 0 && errno == EAGAIN)
                continue;
            if (size < 0)
                end(fd);
            else
                serve(fd, size);
        }
    }
}
