//go:build !linux

package console

import (
	"errors"
	"net"
	"os"
)

// peer cannot be known here, so nobody has a role.
func peer(*net.UnixConn) (Caller, error) {
	return Caller{}, errors.New("peer credentials are known on Linux only")
}

func listenPrivate(path string) (net.Listener, error) {
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, err
	}
	if err := os.Chmod(path, 0o600); err != nil {
		l.Close()
		return nil, err
	}
	return l, nil
}
