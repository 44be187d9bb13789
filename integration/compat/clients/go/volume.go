package main

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"sync"
	"time"
)

func volume() int64 {
	gib, err := strconv.ParseFloat(os.Getenv("GIB"), 64)
	check(err, "GIB")
	return int64(gib * (1 << 30))
}

func rate(what string, bytes int64, begun time.Time) {
	fmt.Printf("%s: %d bytes, %.0f MiB/s\n", what, bytes, float64(bytes)/mib/time.Since(begun).Seconds())
}

// volumeCaller moves one body of the full size down and one up; nothing of it is ever on a disk.
func volumeCaller(args []string) {
	web, size := client(args), volume()
	expect(get(web, "/hello") == "hello", "GET")
	passed("short")

	down := func() {
		begun := time.Now()
		answer, err := web.Get("http://" + at + "/bytes?count=" + strconv.FormatInt(size, 10))
		check(err, "down")
		expect(digest(answer.Body) == digestOf(size), "the body that came down")
		rate("down", size, begun)
	}
	pause := quiet()
	up := func() {
		begun := time.Now()
		// In the midst of the body the caller has nothing to send for a while.
		body := io.MultiReader(&pattern{left: size / 2}, waiting{pause}, &pattern{left: size - size/2, at: size / 2})
		answer, err := http.NewRequest("POST", "http://"+at+"/digest", body)
		check(err, "up")
		found, err := web.Do(answer)
		check(err, "up")
		sum, err := io.ReadAll(found.Body)
		check(err, "up")
		expect(string(sum) == digestOf(size), "the body that went up: %q", sum)
		rate("up, with a pause", size, begun)
	}
	up()
	passed("quiet")
	down()
	passed("long")
}

// waiting is a reader that ends after a time.
type waiting struct{ pause time.Duration }

func (w waiting) Read([]byte) (int, error) {
	time.Sleep(w.pause)
	return 0, io.EOF
}

// pipeApp takes a count, sends so many bytes, and takes what comes until the other side's end, whose digest it sends.
func pipeApp([]string) {
	listener, err := net.Listen("tcp", listen)
	check(err, "listen")
	for {
		connection, err := listener.Accept()
		check(err, "accept")
		go func() {
			defer connection.Close()
			var count int64
			if binary.Read(connection, binary.BigEndian, &count) != nil {
				return
			}
			io.CopyBuffer(connection, &pattern{left: count}, make([]byte, 256*1024))
			io.WriteString(connection, digest(connection))
		}()
	}
}

// pipeCaller moves the full size down and then up over one connection, ends its side, and reads the digest.
func pipeCaller([]string) {
	size := volume()
	move := func(size int64, pause time.Duration) {
		connection, err := net.Dial("tcp", at)
		check(err, "dial")
		check(binary.Write(connection, binary.BigEndian, size), "count")
		begun := time.Now()
		expect(digest(io.LimitReader(connection, size)) == digestOf(size), "what came down")
		rate("down", size, begun)
		time.Sleep(pause)
		begun = time.Now()
		_, err = io.CopyBuffer(connection, &pattern{left: size}, make([]byte, 256*1024))
		check(err, "up")
		check(connection.(*net.TCPConn).CloseWrite(), "half-close")
		sum, err := io.ReadAll(connection)
		check(err, "answer after the half-close")
		expect(string(sum) == digestOf(size), "what went up: %q", sum)
		rate("up", size, begun)
	}
	move(1000, 0)
	passed("short")
	move(1000, quiet())
	passed("quiet")
	move(size, 0)
	passed("long")
}

// idleApp answers each line of a connection with that line, for as long as the caller keeps it.
func idleApp([]string) {
	listener, err := net.Listen("tcp", listen)
	check(err, "listen")
	for {
		connection, err := listener.Accept()
		check(err, "accept")
		go func() {
			io.Copy(connection, connection)
			connection.Close()
		}()
	}
}

// idleCaller opens so many connections (its first argument), makes a request on each, leaves them idle, and makes another
// request on each. With `http` these are keep-alives of HTTP/1.1.
func idleCaller(args []string) {
	count, err := strconv.Atoi(args[0])
	check(err, "count")
	request, answer := []byte("a line of the caller\n"), []byte("a line of the caller\n")
	web := args[1] == "http"
	if web {
		request = []byte("GET /hello HTTP/1.1\r\nHost: app\r\n\r\n")
	}
	connections := make([]net.Conn, count)
	each := func(do func(at int)) {
		var group sync.WaitGroup
		slots := make(chan struct{}, 64)
		for at := range count {
			slots <- struct{}{}
			group.Add(1)
			go func() {
				defer func() { <-slots; group.Done() }()
				do(at)
			}()
		}
		group.Wait()
	}
	ask := func(at int) {
		connections[at].SetDeadline(time.Now().Add(patience))
		_, err := connections[at].Write(request)
		check(err, fmt.Sprintf("request on connection %d", at))
		if web {
			expect(readAnswer(connections[at]) == "hello", "answer on connection %d", at)
			return
		}
		found := make([]byte, len(answer))
		_, err = io.ReadFull(connections[at], found)
		check(err, fmt.Sprintf("answer on connection %d", at))
	}
	begun := time.Now()
	each(func(number int) {
		connection, err := net.DialTimeout("tcp", at, patience)
		check(err, fmt.Sprintf("connection %d", number))
		connections[number] = connection
		ask(number)
	})
	fmt.Printf("%d connections are open after %v\n", count, time.Since(begun))
	passed("short")
	time.Sleep(quiet())
	each(ask)
	passed("quiet")
	for range 3 {
		each(ask)
	}
	passed("long")
}

// readAnswer reads one answer of HTTP/1.1, exactly.
func readAnswer(connection net.Conn) string {
	answer, err := http.ReadResponse(bufio.NewReaderSize(connection, 4096), nil)
	check(err, "answer")
	body, err := io.ReadAll(answer.Body)
	check(err, "body")
	expect(answer.StatusCode == 200, "status %s", answer.Status)
	return string(body)
}
