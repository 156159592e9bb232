package testkit

import (
	"io"
	"net"
	"sync"
	"testing"
	"time"
)

// Proxy is a TCP proxy in front of a server, to be put between a client and its dependency.
type Proxy struct {
	target   string
	listener net.Listener
	working  sync.WaitGroup

	mu      sync.Mutex
	changed chan struct{} // closed and replaced when the state changes
	cut     bool
	stalled bool
	delay   time.Duration
	open    map[net.Conn]struct{}
}

// NewProxy listens on a free port and forwards each connection to target (HOST:PORT). It ends with the test.
func NewProxy(t testing.TB, target string) *Proxy {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &Proxy{target: target, listener: listener, changed: make(chan struct{}), open: map[net.Conn]struct{}{}}
	p.working.Go(p.accept)
	t.Cleanup(func() {
		_ = listener.Close()
		p.change(func() { p.cut = true })
		p.working.Wait()
	})
	return p
}

// Addr is the proxy's own address, 127.0.0.1:PORT.
func (p *Proxy) Addr() string { return p.listener.Addr().String() }

// Cut closes every connection and each new one at once: the dependency is gone.
func (p *Proxy) Cut() { p.change(func() { p.cut = true }) }

// Stall keeps connections open and accepts new ones but lets no byte through: the dependency hangs.
func (p *Proxy) Stall() { p.change(func() { p.stalled = true }) }

// Delay holds what is forwarded back for d, in both directions: the dependency is slow.
func (p *Proxy) Delay(d time.Duration) { p.change(func() { p.delay = d }) }

// Restore ends Cut, Stall and Delay. Connections that were cut stay closed; what was stalled is now sent.
func (p *Proxy) Restore() { p.change(func() { p.cut, p.stalled, p.delay = false, false, 0 }) }

func (p *Proxy) change(set func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	set()
	if p.cut {
		for conn := range p.open {
			_ = conn.Close()
		}
	}
	close(p.changed)
	p.changed = make(chan struct{})
}

func (p *Proxy) accept() {
	for {
		client, err := p.listener.Accept()
		if err != nil {
			return // closed with the test
		}
		if !p.hold(client) {
			continue
		}
		p.working.Go(func() { p.forward(client) })
	}
}

// hold registers a connection to be closed by Cut; false if it is cut already.
func (p *Proxy) hold(conn net.Conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.cut {
		_ = conn.Close()
		return false
	}
	p.open[conn] = struct{}{}
	return true
}

func (p *Proxy) release(conn net.Conn) {
	_ = conn.Close()
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.open, conn)
}

func (p *Proxy) forward(client net.Conn) {
	defer p.release(client)
	target, err := net.DialTimeout("tcp", p.target, 5*time.Second)
	if err != nil || !p.hold(target) {
		return
	}
	defer p.release(target)
	var both sync.WaitGroup
	both.Go(func() { p.copy(target, client) })
	both.Go(func() { p.copy(client, target) })
	both.Wait()
}

// copy forwards one direction until either side closes, then closes the direction on the other side too.
func (p *Proxy) copy(to, from net.Conn) {
	buffer := make([]byte, 32<<10)
	for {
		n, err := from.Read(buffer)
		if n > 0 {
			if !p.pass() {
				break
			}
			if _, err := to.Write(buffer[:n]); err != nil {
				break
			}
		}
		if err == io.EOF {
			if half, ok := to.(*net.TCPConn); ok && half.CloseWrite() == nil {
				return
			}
		}
		if err != nil {
			break
		}
	}
	_, _ = to.Close(), from.Close()
}

// pass blocks while the proxy is stalled, then for the delay. False: the connection was cut meanwhile.
func (p *Proxy) pass() bool {
	for {
		p.mu.Lock()
		cut, stalled, delay, changed := p.cut, p.stalled, p.delay, p.changed
		p.mu.Unlock()
		switch {
		case cut:
			return false
		case !stalled && delay == 0:
			return true
		case stalled:
			<-changed
		default:
			timer := time.NewTimer(delay)
			select {
			case <-timer.C:
				return true
			case <-changed:
				timer.Stop()
			}
		}
	}
}
