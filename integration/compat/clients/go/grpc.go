package main

import (
	"context"
	"io"
	"math"
	"net"
	"strconv"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// plain takes bytes as messages.
type plain struct{}

func (plain) Marshal(message any) ([]byte, error) { return message.([]byte), nil }

func (plain) Unmarshal(data []byte, message any) error {
	*message.(*[]byte) = append([]byte(nil), data...)
	return nil
}

func (plain) Name() string { return "proto" }

func init() { encoding.RegisterCodec(plain{}) }

const words = "no such thing: größer"

var cancelled atomic.Int64

type echo struct{}

type unaryMethod func(ctx context.Context, message []byte) ([]byte, error)

func unary(name string, method unaryMethod) grpc.MethodDesc {
	return grpc.MethodDesc{MethodName: name, Handler: func(_ any, ctx context.Context, decode func(any) error,
		_ grpc.UnaryServerInterceptor) (any, error) {
		var message []byte
		if err := decode(&message); err != nil {
			return nil, err
		}
		return method(ctx, message)
	}}
}

// replying is a method of one message and a stream of replies.
func replying(name string, method func(count int, say func([]byte) error) error) grpc.StreamDesc {
	return grpc.StreamDesc{StreamName: name, ServerStreams: true, Handler: func(_ any, stream grpc.ServerStream) error {
		var message []byte
		if err := stream.RecvMsg(&message); err != nil {
			return err
		}
		return method(number(message), func(reply []byte) error { return stream.SendMsg(reply) })
	}}
}

func number(message []byte) int {
	value, err := strconv.Atoi(string(message))
	check(err, "a number")
	return value
}

func text(value int64) []byte { return strconv.AppendInt(nil, value, 10) }

func slow(ctx context.Context, message []byte) ([]byte, error) {
	select {
	case <-time.After(time.Duration(number(message)) * time.Millisecond):
		return message, nil
	case <-ctx.Done():
		cancelled.Add(1)
		return nil, status.FromContextError(ctx.Err()).Err()
	}
}

func failing(ctx context.Context, _ []byte) ([]byte, error) {
	check(grpc.SetTrailer(ctx, metadata.Pairs("x-detail", "some detail", "x-detail-bin", "\x00\xff")), "trailers")
	return nil, status.Error(codes.NotFound, words)
}

func collect(_ any, stream grpc.ServerStream) error {
	total := 0
	for {
		var message []byte
		if err := stream.RecvMsg(&message); err == io.EOF {
			return stream.SendMsg(text(int64(total)))
		} else if err != nil {
			return err
		}
		total += len(message)
	}
}

func chat(_ any, stream grpc.ServerStream) error {
	for {
		var message []byte
		if err := stream.RecvMsg(&message); err == io.EOF {
			return nil
		} else if err != nil {
			cancelled.Add(1)
			return err
		}
		if err := stream.SendMsg(message); err != nil {
			return err
		}
	}
}

var service = grpc.ServiceDesc{
	ServiceName: "compat.Echo",
	HandlerType: (*any)(nil),
	Methods: []grpc.MethodDesc{
		unary("Unary", func(_ context.Context, message []byte) ([]byte, error) { return message, nil }),
		unary("Fail", failing),
		unary("Slow", slow),
		unary("Cancelled", func(context.Context, []byte) ([]byte, error) { return text(cancelled.Load()), nil }),
	},
	Streams: []grpc.StreamDesc{
		replying("List", func(count int, say func([]byte) error) error {
			for at := range count {
				if err := say(text(int64(at))); err != nil {
					return err
				}
			}
			return nil
		}),
		replying("Pieces", func(count int, say func([]byte) error) error {
			for range count * 16 {
				if err := say(block); err != nil {
					return err
				}
			}
			return nil
		}),
		replying("Quiet", func(milliseconds int, say func([]byte) error) error {
			if err := say([]byte("begin")); err != nil {
				return err
			}
			time.Sleep(time.Duration(milliseconds) * time.Millisecond)
			return say([]byte("end"))
		}),
		{StreamName: "Collect", ClientStreams: true, Handler: collect},
		{StreamName: "Chat", ClientStreams: true, ServerStreams: true, Handler: chat},
	},
}

// grpcServer serves compat.Echo.
func grpcServer(options ...grpc.ServerOption) *grpc.Server {
	server := grpc.NewServer(options...)
	server.RegisterService(&service, echo{})
	return server
}

// grpcApp's only argument, if any, is how many streams a connection may have.
func grpcApp(args []string) {
	var options []grpc.ServerOption
	if len(args) > 0 {
		streams, err := strconv.Atoi(args[0])
		check(err, "streams")
		options = append(options, grpc.MaxConcurrentStreams(uint32(streams)))
	}
	listener, err := net.Listen("tcp", listen)
	check(err, "listen")
	check(grpcServer(options...).Serve(listener), "serve")
}

type caller struct{ *grpc.ClientConn }

func newCaller() caller {
	connection, err := grpc.NewClient(at, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(math.MaxInt32)))
	check(err, "dial")
	return caller{connection}
}

func within(limit time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	context.AfterFunc(ctx, cancel)
	return ctx
}

func (c caller) call(ctx context.Context, method string, message []byte, options ...grpc.CallOption) ([]byte, error) {
	var reply []byte
	err := c.Invoke(ctx, "/compat.Echo/"+method, message, &reply, options...)
	return reply, err
}

func (c caller) must(method string, message string) string {
	reply, err := c.call(within(2*patience), method, []byte(message))
	check(err, method)
	return string(reply)
}

func (c caller) stream(ctx context.Context, method string, description grpc.StreamDesc) grpc.ClientStream {
	stream, err := c.NewStream(ctx, &description, "/compat.Echo/"+method)
	check(err, method)
	return stream
}

// replies sends one message and gives each reply to `take`.
func (c caller) replies(method, message string, take func([]byte)) {
	stream := c.stream(within(2*patience), method, grpc.StreamDesc{ServerStreams: true})
	check(stream.SendMsg([]byte(message)), method)
	check(stream.CloseSend(), method)
	for {
		var reply []byte
		err := stream.RecvMsg(&reply)
		if err == io.EOF {
			return
		}
		check(err, method)
		take(reply)
	}
}

func (c caller) collect(count int, message []byte) string {
	stream := c.stream(within(patience), "Collect", grpc.StreamDesc{ClientStreams: true})
	for range count {
		check(stream.SendMsg(message), "Collect")
	}
	check(stream.CloseSend(), "Collect")
	var reply []byte
	check(stream.RecvMsg(&reply), "Collect")
	return string(reply)
}

func (c caller) chat(ctx context.Context) (say func(string), end func()) {
	stream := c.stream(ctx, "Chat", grpc.StreamDesc{ClientStreams: true, ServerStreams: true})
	say = func(message string) {
		check(stream.SendMsg([]byte(message)), "Chat")
		var reply []byte
		check(stream.RecvMsg(&reply), "Chat")
		expect(string(reply) == message, "echo of %q is %q", message, reply)
	}
	end = func() {
		check(stream.CloseSend(), "Chat")
		var reply []byte
		err := stream.RecvMsg(&reply)
		expect(err == io.EOF, "the end of a stream: %v", err)
	}
	return say, end
}

func (c caller) cancelled() int { return number([]byte(c.must("Cancelled", ""))) }

// grpcCaller with `by-haproxy` cancels nothing: HAProxy passes a cancellation on only when it next has something to send.
func grpcCaller(args []string) {
	version("grpc-go", grpc.Version)
	c := newCaller()
	c.short(len(args) == 0)
	passed("short")
	c.quiet()
	passed("quiet")
	steady := func() {
		for at := range 1000 {
			expect(c.must("Unary", strconv.Itoa(at)) == strconv.Itoa(at), "one of many calls")
		}
	}
	together(steady, steady, func() {
		total := 0
		c.replies("Pieces", "32", func(piece []byte) { total += len(piece) })
		expect(total == 32*mib, "a stream of 32 MiB: %d", total)
		expect(c.collect(512, block) == strconv.Itoa(32*mib), "32 MiB up")
	})
	passed("long")
}

func (c caller) short(cancels bool) {
	for _, message := range []string{"word", "", string(make([]byte, mib))} {
		expect(c.must("Unary", message) == message, "unary call")
	}
	var trailers metadata.MD
	_, err := c.call(within(patience), "Fail", nil, grpc.Trailer(&trailers))
	expect(status.Code(err) == codes.NotFound && status.Convert(err).Message() == words, "status: %v", err)
	expect(trailers.Get("x-detail")[0] == "some detail" && trailers.Get("x-detail-bin")[0] == "\x00\xff", "trailers: %v", trailers)
	listed := 0
	c.replies("List", "1000", func(reply []byte) {
		expect(number(reply) == listed, "reply %d is %q", listed, reply)
		listed++
	})
	expect(listed == 1000, "server's stream: %d", listed)
	expect(c.collect(1000, make([]byte, 1000)) == "1000000", "client's stream")
	say, end := c.chat(within(patience))
	for at := range 100 {
		say(strconv.Itoa(at))
	}
	end()

	before := c.cancelled()
	_, err = c.call(within(500*time.Millisecond), "Slow", []byte("100000"))
	expect(status.Code(err) == codes.DeadlineExceeded, "deadline: %v", err)
	until("the server learns of the deadline", func() bool { return c.cancelled() > before })
	if !cancels {
		return
	}
	before = c.cancelled()
	ctx, cancel := context.WithCancel(context.Background())
	say, _ = c.chat(ctx)
	say("to be cancelled")
	cancel()
	until("the server learns of the cancellation", func() bool { return c.cancelled() > before })
}

func (c caller) quiet() {
	pause := quiet()
	milliseconds := strconv.FormatInt(pause.Milliseconds(), 10)
	var tasks []func()
	for range 150 {
		tasks = append(tasks, func() { expect(c.must("Slow", "1000") == "1000", "150 calls at once") })
	}
	together(append(tasks,
		func() {
			say, end := c.chat(within(2 * patience))
			say("before")
			time.Sleep(pause)
			say("after")
			end()
		},
		func() {
			seen := ""
			c.replies("Quiet", milliseconds, func(reply []byte) { seen += string(reply) })
			expect(seen == "beginend", "a server's stream that pauses: %q", seen)
		},
		func() { expect(c.must("Slow", milliseconds) == milliseconds, "a late answer") },
	)...)
}
