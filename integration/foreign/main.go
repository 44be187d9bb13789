// Command foreign carries TCP connections between plain bytes and mutual TLS as Go's crypto/tls speaks it: it shows an
// SVID, demands that the peer has one exact SPIFFE ID, and carries half-closed connections.
package main

import (
	"crypto/tls"
	"crypto/x509"
	"flag"
	"fmt"
	"io"
	"log"
	"net"
	"os"
	"strings"
)

func main() {
	var (
		role   = flag.String("role", "", "client: plain bytes to TLS; server: TLS to plain bytes")
		listen = flag.String("listen", "", "where it is called")
		to     = flag.String("to", "", "whom it calls")
		chain  = flag.String("cert", "", "chain, PEM; without it no certificate is shown")
		bundle = flag.String("bundle", "", "roots, PEM")
		peer   = flag.String("peer", "", "the SPIFFE ID that the peer must have")
		alpn   = flag.String("alpn", "", "protocols, separated by commas; an empty one is a protocol")
	)
	flag.Parse()
	config := configure(*chain, *bundle, *peer)
	if *alpn != "" {
		config.NextProtos = strings.Split(*alpn, ",")
	}
	listener, err := net.Listen("tcp", *listen)
	if err != nil {
		log.Fatal(err)
	}
	for {
		near, err := listener.Accept()
		if err != nil {
			log.Fatal(err)
		}
		go func() {
			if err := carry(near, *to, *role, config); err != nil {
				log.Print(err)
			}
		}()
	}
}

func configure(chain, bundle, peer string) *tls.Config {
	roots := x509.NewCertPool()
	pem, err := os.ReadFile(bundle)
	if err != nil || !roots.AppendCertsFromPEM(pem) {
		log.Fatalf("no roots in %q: %v", bundle, err)
	}
	config := &tls.Config{
		MinVersion: tls.VersionTLS13,
		ClientAuth: tls.RequireAnyClientCert,
		// Host names are not compared; what must be is compared below.
		InsecureSkipVerify: true,
		VerifyConnection:   func(state tls.ConnectionState) error { return judge(state, roots, peer) },
	}
	if chain != "" {
		own, err := tls.LoadX509KeyPair(chain, chain+".key")
		if err != nil {
			log.Fatal(err)
		}
		config.Certificates = []tls.Certificate{own}
	}
	return config
}

func judge(state tls.ConnectionState, roots *x509.CertPool, peer string) error {
	intermediates := x509.NewCertPool()
	for _, certificate := range state.PeerCertificates[1:] {
		intermediates.AddCert(certificate)
	}
	leaf := state.PeerCertificates[0]
	usages := []x509.ExtKeyUsage{x509.ExtKeyUsageAny}
	options := x509.VerifyOptions{Roots: roots, Intermediates: intermediates, KeyUsages: usages}
	if _, err := leaf.Verify(options); err != nil {
		return err
	}
	if len(leaf.URIs) != 1 || leaf.URIs[0].String() != peer {
		return fmt.Errorf("expected %s, found %v", peer, leaf.URIs)
	}
	return nil
}

// carry ends only when both directions have, or one is broken.
func carry(near net.Conn, to, role string, config *tls.Config) error {
	defer near.Close()
	if role == "server" {
		near = tls.Server(near, config)
		if err := near.(*tls.Conn).Handshake(); err != nil {
			return err
		}
	}
	far, err := net.Dial("tcp", to)
	if err != nil {
		return err
	}
	defer far.Close()
	if role == "client" {
		far = tls.Client(far, config)
		if err := far.(*tls.Conn).Handshake(); err != nil {
			return err
		}
	}
	ends := make(chan error, 2)
	go func() { ends <- pass(far, near) }()
	go func() { ends <- pass(near, far) }()
	for range [2]struct{}{} {
		if err := <-ends; err != nil {
			breakOff(near)
			breakOff(far)
			return err
		}
	}
	return nil
}

type halfCloser interface{ CloseWrite() error }

// pass copies one direction and passes on its end.
func pass(to, from net.Conn) error {
	if _, err := io.Copy(to, from); err != nil {
		return err
	}
	return to.(halfCloser).CloseWrite()
}

// breakOff resets a connection, without the word that would make it a clean end.
func breakOff(connection net.Conn) {
	if secure, ok := connection.(*tls.Conn); ok {
		connection = secure.NetConn()
	}
	// Closing resets it then; an error only means that it is over already.
	_ = connection.(*net.TCPConn).SetLinger(0)
	_ = connection.Close()
}
