package workload

import (
	"context"
	"log/slog"
	"slices"
	"time"

	"github.com/sallyport/sallyport/ca"
	"github.com/sallyport/sallyport/internal/atomicfile"
)

const (
	// jwtGrace is how long after the last signature of a key it still verifies: the life of a JWT-SVID, and a minute for clocks.
	jwtGrace = jwtLife + time.Minute
	// jwtSettle is how long a key is in the bundle before it signs. Nothing cross-signs it, and applications are not waited for where the old
	// root signs the new one: by then those that fetch the bundle have it, and streams without an end that listens have been found.
	jwtSettle = time.Minute
	// jwtRetry is after how long a write that failed is tried again.
	jwtRetry = time.Minute
)

// Rotation is how far the replacement of the CA's root has come, and when it began; the zero Rotation is none.
type Rotation struct {
	Phase   ca.Phase
	Started time.Time
}

// Run replaces the key as the CA's root is replaced, until ctx ends: the next key is published when the root is prepared, signs when it is
// activated and a minute has passed, and the last one leaves when that is done and no JWT-SVID of it is valid any more. Each step is on the disk before anybody
// sees it. rotation says where the CA is, and changed is closed when that is another; it is taken before rotation is asked.
func (k *JWTKeys) Run(ctx context.Context, log *slog.Logger, rotation func() Rotation, changed func() <-chan struct{}) error {
	for {
		change := changed()
		again := k.follow(log, rotation(), time.Now())
		timer := time.NewTimer(again)
		if again <= 0 {
			timer.Stop()
		}
		select {
		case <-change:
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return nil
		}
		timer.Stop()
	}
}

// follow takes the step that is due, and returns after how long another is; 0: with the CA's next.
func (k *JWTKeys) follow(log *slog.Logger, r Rotation, now time.Time) time.Duration {
	old := k.load()
	list, again, err := nextKeys(old.list, r, now)
	if err == nil && !slices.Equal(list, old.list) {
		err = k.replace(list)
		if err == nil {
			log.Info("the keys of JWT-SVIDs are others", "audit", "rotation", "phase", r.Phase, "count", len(list), "file", k.file)
			return max(again, time.Millisecond) // another step may be due
		}
	}
	if err != nil {
		log.Error("the key of JWT-SVIDs is not replaced, trying again", "audit", "rotation", "file", k.file, "err", err, "duration", jwtRetry)
		return jwtRetry
	}
	return again
}

// replace puts list on the disk, and then into use.
func (k *JWTKeys) replace(list []jwtKey) error {
	next, err := newJWTKeys(list)
	if err != nil {
		return err
	}
	text, err := encodeKeys(list)
	if err != nil {
		return err
	}
	if text, err = k.keys.Seal(keyName, text); err != nil {
		return err
	}
	if err := atomicfile.Replace(k.file, text); err != nil {
		return err
	}
	k.current.Set(next)
	return nil
}

// nextKeys are the keys after list, of which the first signs, and after how long there will be others; 0: with the CA's next step. A key that
// waits to sign is the last of list and has never signed; those between have signed before.
func nextKeys(list []jwtKey, r Rotation, now time.Time) ([]jwtKey, time.Duration, error) {
	of := ""
	if r.Phase != ca.Idle {
		of = r.Started.UTC().Format(time.RFC3339Nano)
	}
	first, last := list[0], list[len(list)-1]
	waits := len(list) > 1 && last.of != "" && last.signs.IsZero()
	switch {
	case of != "" && !slices.ContainsFunc(list, func(k jwtKey) bool { return k.of == of }):
		next, err := generateKey(of)
		if waits { // that of a rotation of which the end was not seen
			list = list[:len(list)-1]
		}
		list = slices.Clone(list[:min(len(list), maxJWTKeys-1)])
		return append(list, next), 0, err
	case waits && r.Phase != ca.Preparing:
		if left := jwtSettle - now.Sub(last.published()); left > 0 && left <= jwtSettle {
			return list, left, nil
		}
		last.signs = now
		return append([]jwtKey{last}, list[:len(list)-1]...), 0, nil
	case len(list) > 1 && !waits && r.Phase != ca.Activating:
		if left := first.signs.Add(jwtGrace).Sub(now); left > 0 && left <= jwtGrace {
			return list, left, nil
		}
		return list[:1:1], 0, nil
	}
	return list, 0, nil
}

// published is since when a key is in the bundle; zero: always, or nobody knows.
func (k jwtKey) published() time.Time {
	t, err := time.Parse(time.RFC3339Nano, k.of)
	if err != nil {
		return time.Time{}
	}
	return t
}
