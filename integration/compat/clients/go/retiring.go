package main

import (
	"fmt"
	"net"
	"strconv"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/status"
)

// retiringApp ends each connection after two seconds, as servers behind load balancers do. With the argument `restarts`
// it also stops gracefully and begins again on the same port, five times, after the first thousand calls.
func retiringApp(args []string) {
	var seen atomic.Int64
	options := []grpc.ServerOption{
		grpc.KeepaliveParams(keepalive.ServerParameters{MaxConnectionAge: 2 * time.Second, MaxConnectionAgeGrace: 5 * time.Second}),
	}
	for {
		listener, err := net.Listen("tcp", listen)
		check(err, "listen")
		server := grpcServer(options...)
		if len(args) == 0 {
			check(server.Serve(counted{listener, &seen}), "serve")
			return
		}
		go func() {
			time.Sleep(3 * time.Second)
			server.GracefulStop()
		}()
		check(server.Serve(counted{listener, &seen}), "serve")
		time.Sleep(500 * time.Millisecond)
	}
}

// counted prints how many connections were made so far.
type counted struct {
	net.Listener
	seen *atomic.Int64
}

func (c counted) Accept() (net.Conn, error) {
	connection, err := c.Listener.Accept()
	if err == nil {
		fmt.Println("connections:", c.seen.Add(1))
	}
	return connection, err
}

// retiringCaller makes calls all the time. No call may fail; with the argument `restarts` a call may be refused as
// unavailable while the app is away, and no other way, and each must pass at last.
func retiringCaller(args []string) {
	version("grpc-go", grpc.Version)
	restarts := len(args) > 0
	c := newCaller()
	var calls, refused atomic.Int64
	call := func(method, message string) {
		calls.Add(1)
		until(method+" passes", func() bool {
			reply, err := c.call(within(patience), method, []byte(message))
			if err != nil {
				expect(restarts && status.Code(err) == codes.Unavailable, "%s: %v", method, err)
				refused.Add(1)
				return false
			}
			expect(string(reply) == message, "%s: %q", method, reply)
			return true
		})
	}
	call("Unary", "first")
	passed("short")
	run := func(length time.Duration) {
		var tasks []func()
		for worker := range 20 {
			tasks = append(tasks, func() {
				for at, end := 0, time.Now().Add(length); time.Now().Before(end); at++ {
					if at%100 == worker {
						call("Slow", "3000")
					} else {
						call("Unary", strconv.Itoa(at))
					}
					time.Sleep(10 * time.Millisecond)
				}
			})
		}
		for range 2 {
			tasks = append(tasks, func() {
				for end := time.Now().Add(length); time.Now().Before(end); {
					call("Slow", "4000")
				}
			})
		}
		together(tasks...)
	}
	run(10 * time.Second)
	// Every connection has been retired meanwhile.
	time.Sleep(quiet())
	call("Unary", "after the pause")
	passed("quiet")
	run(30 * time.Second)
	fmt.Printf("%d calls, %d refused while the app was away\n", calls.Load(), refused.Load())
	passed("long")
}
