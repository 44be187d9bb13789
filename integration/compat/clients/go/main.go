// The suite's servers and clients in Go: one subcommand each.
package main

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"
	"time"
)

const (
	mib      = 1 << 20
	patience = 240 * time.Second
)

var (
	at      = os.Getenv("AT")
	appPort = os.Getenv("APP_PORT")
	listen  = "127.0.0.1:" + appPort
)

func main() {
	programs := map[string]func(args []string){
		"grpc-app": grpcApp, "grpc-caller": grpcCaller, "retiring-app": retiringApp, "retiring-caller": retiringCaller,
		"http-app": httpApp, "http-caller": httpCaller, "volume-caller": volumeCaller, "idle-caller": idleCaller,
		"idle-app": idleApp, "pipe-app": pipeApp, "pipe-caller": pipeCaller,
	}
	programs[os.Args[1]](os.Args[2:])
}

func passed(exchange string) { fmt.Println("passed:", exchange) }

func version(name, number string) { fmt.Println("version:", name, number) }

// moduleVersion is the version of a dependency as it was linked.
func moduleVersion(path string) string {
	info, _ := debug.ReadBuildInfo()
	for _, module := range info.Deps {
		if module.Path == path {
			return strings.TrimPrefix(module.Version, "v")
		}
	}
	return "unknown"
}

func expect(holds bool, what string, args ...any) {
	if !holds {
		fail(what, args...)
	}
}

func check(err error, what string) {
	if err != nil {
		fail("%s: %v", what, err)
	}
}

func fail(what string, args ...any) {
	fmt.Fprintf(os.Stderr, what+"\n", args...)
	os.Exit(1)
}

func quiet() time.Duration {
	seconds, err := strconv.ParseFloat(os.Getenv("QUIET"), 64)
	check(err, "QUIET")
	return time.Duration(seconds * float64(time.Second))
}

// together runs all tasks at once and returns when all have ended.
func together(tasks ...func()) {
	var group sync.WaitGroup
	for _, task := range tasks {
		group.Add(1)
		go func() {
			defer group.Done()
			task()
		}()
	}
	group.Wait()
}

// until asks again and again until the answer is true.
func until(what string, ask func() bool) {
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		if ask() {
			return
		}
	}
	fail("never happened: %s", what)
}

// pattern gives bytes that depend on their place.
type pattern struct{ left, at int64 }

var block = func() []byte {
	var whole []byte
	for n := range 2048 {
		sum := sha256.Sum256([]byte(strconv.Itoa(n)))
		whole = append(whole, sum[:]...)
	}
	return whole
}()

func (p *pattern) Read(into []byte) (int, error) {
	if p.left == 0 {
		return 0, io.EOF
	}
	from := block[p.at%int64(len(block)):]
	count := copy(into, from[:min(int64(len(from)), p.left)])
	p.left -= int64(count)
	p.at += int64(count)
	return count, nil
}

func digestOf(count int64) string { return digest(&pattern{left: count}) }

func digest(from io.Reader) string {
	sum := sha256.New()
	_, err := io.CopyBuffer(sum, from, make([]byte, 256*1024))
	check(err, "a body")
	return hex.EncodeToString(sum.Sum(nil))
}
