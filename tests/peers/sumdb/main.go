// Command sumdb-check verifies an exported delivery log with the Go team's own packages for
// transparency logs (golang.org/x/mod/sumdb), which share no code with the gateway.
//
//	sumdb-check [-vkey KEY]... DIR
//	sumdb-check -vkey KEY -proof FILE -entry FILE
//
// The first form verifies a whole tree: the checkpoint's signature, the root recomputed from the
// entry bundles, every tile, inclusion and consistency proofs built by Go from our tiles, and every
// receipt. The second verifies one .tlog-proof file for one entry. Exit code 0 means that
// everything holds, 1 that something does not, 2 that the arguments are wrong.
package main

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

const (
	tileHeight  = 8
	bundleWidth = 1 << tileHeight
	// Above this size, inclusion is proven for a sample of the entries.
	allProofs    = 4096
	sampleProofs = 1000
)

type keyList []string

func (k *keyList) String() string     { return strings.Join(*k, ",") }
func (k *keyList) Set(s string) error { *k = append(*k, s); return nil }

func main() {
	var keys keyList
	flag.Var(&keys, "vkey", "trusted public `key`; without one, those of the tree are taken")
	proof := flag.String("proof", "", "verify this one .tlog-proof `file`")
	entry := flag.String("entry", "", "`file` with the entry that -proof is for")
	flag.Parse()
	var summary string
	var err error
	switch {
	case *proof != "" && *entry != "" && len(keys) > 0 && flag.NArg() == 0:
		summary, err = checkProofFile(keys, *proof, *entry)
	case *proof == "" && *entry == "" && flag.NArg() == 1:
		summary, err = checkDir(flag.Arg(0), keys)
	default:
		flag.Usage()
		os.Exit(2)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "sumdb-check:", err)
		os.Exit(1)
	}
	fmt.Println(summary)
}

// A checkpoint is the signed origin, size and root of a log.
type checkpoint struct {
	origin string
	tree   tlog.Tree
}

func openCheckpoint(msg []byte, known note.Verifiers) (checkpoint, error) {
	var cp checkpoint
	n, err := note.Open(msg, known)
	if err != nil {
		return cp, err
	}
	lines := strings.SplitN(n.Text, "\n", 4)
	if len(lines) != 4 || lines[0] == "" {
		return cp, errors.New("malformed checkpoint")
	}
	cp.origin = lines[0]
	cp.tree.N, err = strconv.ParseInt(lines[1], 10, 64)
	if err != nil || cp.tree.N < 0 || strconv.FormatInt(cp.tree.N, 10) != lines[1] {
		return cp, errors.New("malformed checkpoint size")
	}
	cp.tree.Hash, err = tlog.ParseHash(lines[2])
	if err != nil {
		return cp, err
	}
	for _, sig := range n.Sigs {
		if sig.Name == cp.origin {
			return cp, nil
		}
	}
	return cp, fmt.Errorf("no key of the log %q has signed", cp.origin)
}

func verifiers(keys []string) (note.Verifiers, error) {
	var list []note.Verifier
	for _, key := range keys {
		v, err := note.NewVerifier(key)
		if err != nil {
			return nil, fmt.Errorf("key %q: %w", key, err)
		}
		list = append(list, v)
	}
	if len(list) == 0 {
		return nil, errors.New("no key")
	}
	return note.VerifierList(list...), nil
}

// A proofFile is a parsed .tlog-proof, see https://c2sp.org/tlog-proof.
type proofFile struct {
	index int64
	proof tlog.RecordProof
	note  []byte
}

func parseProofFile(data []byte) (proofFile, error) {
	var p proofFile
	head, rest, found := bytes.Cut(data, []byte("\n\n"))
	if !found {
		return p, errors.New("malformed proof: no blank line")
	}
	p.note = rest
	lines := strings.Split(string(head), "\n")
	if lines[0] != "c2sp.org/tlog-proof@v1" {
		return p, errors.New("malformed proof: wrong first line")
	}
	lines = lines[1:]
	if len(lines) > 0 && strings.HasPrefix(lines[0], "extra ") {
		if _, err := base64.StdEncoding.DecodeString(lines[0][len("extra "):]); err != nil {
			return p, err
		}
		lines = lines[1:]
	}
	if len(lines) == 0 || !strings.HasPrefix(lines[0], "index ") {
		return p, errors.New("malformed proof: no index")
	}
	text := lines[0][len("index "):]
	index, err := strconv.ParseInt(text, 10, 64)
	if err != nil || index < 0 || strconv.FormatInt(index, 10) != text {
		return p, errors.New("malformed proof: bad index")
	}
	p.index = index
	for _, line := range lines[1:] {
		hash, err := tlog.ParseHash(line)
		if err != nil {
			return p, err
		}
		p.proof = append(p.proof, hash)
	}
	return p, nil
}

// verifyProof checks a .tlog-proof for the leaf that leafAt gives for its index.
func verifyProof(data []byte, known note.Verifiers, leafAt func(int64) (tlog.Hash, error)) (checkpoint, error) {
	p, err := parseProofFile(data)
	if err != nil {
		return checkpoint{}, err
	}
	cp, err := openCheckpoint(p.note, known)
	if err != nil {
		return cp, err
	}
	leaf, err := leafAt(p.index)
	if err != nil {
		return cp, err
	}
	return cp, tlog.CheckRecord(p.proof, cp.tree.N, cp.tree.Hash, p.index, leaf)
}

func checkProofFile(keys []string, proof, entry string) (string, error) {
	known, err := verifiers(keys)
	if err != nil {
		return "", err
	}
	data, err := os.ReadFile(proof)
	if err != nil {
		return "", err
	}
	content, err := os.ReadFile(entry)
	if err != nil {
		return "", err
	}
	leaf := func(int64) (tlog.Hash, error) { return tlog.RecordHash(content), nil }
	cp, err := verifyProof(data, known, leaf)
	if err != nil {
		return "", fmt.Errorf("%s: %w", proof, err)
	}
	return fmt.Sprintf("ok: %s holds, %s of %d entries", proof, cp.origin, cp.tree.N), nil
}

// A dirTiles serves tiles from an exported tree to tlog.TileHashReader.
type dirTiles struct{ dir string }

func (d dirTiles) Height() int { return tileHeight }

func (d dirTiles) ReadTiles(tiles []tlog.Tile) ([][]byte, error) {
	var all [][]byte
	for _, tile := range tiles {
		data, err := os.ReadFile(filepath.Join(d.dir, tilePath(tile)))
		if err != nil {
			return nil, err
		}
		all = append(all, data)
	}
	return all, nil
}

func (d dirTiles) SaveTiles([]tlog.Tile, [][]byte) {}

// tilePath drops the height from Go's path, as tlog-tiles fixes it at 8.
func tilePath(tile tlog.Tile) string {
	return "tile/" + strings.TrimPrefix(tile.Path(), fmt.Sprintf("tile/%d/", tileHeight))
}

// bundlePath names an entry bundle as tlog-tiles does: as a tile, with "entries" for the level.
func bundlePath(n int64, width int) string {
	tile := tlog.Tile{H: tileHeight, L: 0, N: n, W: width}
	return "tile/entries/" + strings.TrimPrefix(tilePath(tile), "tile/0/")
}

// A hashStore holds every hash of a tree in the order of tlog.StoredHashIndex.
type hashStore []tlog.Hash

func (s hashStore) ReadHashes(indexes []int64) ([]tlog.Hash, error) {
	var hashes []tlog.Hash
	for _, index := range indexes {
		if index < 0 || index >= int64(len(s)) {
			return nil, fmt.Errorf("no hash %d", index)
		}
		hashes = append(hashes, s[index])
	}
	return hashes, nil
}

func checkDir(dir string, keys []string) (string, error) {
	if len(keys) == 0 {
		files, err := filepath.Glob(filepath.Join(dir, "keys", "*.vkey"))
		if err != nil {
			return "", err
		}
		for _, file := range files {
			data, err := os.ReadFile(file)
			if err != nil {
				return "", err
			}
			keys = append(keys, strings.TrimSuffix(string(data), "\n"))
		}
	}
	known, err := verifiers(keys)
	if err != nil {
		return "", err
	}
	msg, err := os.ReadFile(filepath.Join(dir, "checkpoint"))
	if err != nil {
		return "", err
	}
	cp, err := openCheckpoint(msg, known)
	if err != nil {
		return "", fmt.Errorf("checkpoint: %w", err)
	}
	stored, leaves, err := readEntries(dir, cp.tree.N)
	if err != nil {
		return "", err
	}
	root, err := tlog.TreeHash(cp.tree.N, stored)
	if err != nil {
		return "", err
	}
	if cp.tree.N > 0 && root != cp.tree.Hash {
		return "", fmt.Errorf("the entries have root %v, the checkpoint has %v", root, cp.tree.Hash)
	}
	tiles, err := checkTiles(dir, cp.tree.N, stored)
	if err != nil {
		return "", err
	}
	reader := tlog.TileHashReader(cp.tree, dirTiles{dir})
	inclusions, err := checkInclusion(cp.tree, reader, leaves)
	if err != nil {
		return "", err
	}
	consistencies, err := checkConsistency(dir, cp, known, reader)
	if err != nil {
		return "", err
	}
	receipts, err := checkReceipts(dir, cp, known, reader, leaves)
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("ok: %s, %d entries, root %v, %d tiles, %d inclusion and %d consistency proofs, %d receipts",
		cp.origin, cp.tree.N, cp.tree.Hash, tiles, inclusions, consistencies, receipts), nil
}

// readEntries reads all bundles and gives all hashes of the tree, and those of its leaves.
func readEntries(dir string, size int64) (hashStore, []tlog.Hash, error) {
	var stored hashStore
	var leaves []tlog.Hash
	for n := int64(0); n*bundleWidth < size; n++ {
		width := size - n*bundleWidth
		if width > bundleWidth {
			width = bundleWidth
		}
		path := bundlePath(n, int(width))
		data, err := os.ReadFile(filepath.Join(dir, path))
		if err != nil {
			return nil, nil, err
		}
		for i := int64(0); i < width; i++ {
			if len(data) < 2 || len(data)-2 < int(binary.BigEndian.Uint16(data)) {
				return nil, nil, fmt.Errorf("%s: truncated at entry %d", path, n*bundleWidth+i)
			}
			end := 2 + int(binary.BigEndian.Uint16(data))
			hashes, err := tlog.StoredHashes(n*bundleWidth+i, data[2:end], stored)
			if err != nil {
				return nil, nil, err
			}
			stored = append(stored, hashes...)
			leaves = append(leaves, hashes[0])
			data = data[end:]
		}
		if len(data) != 0 {
			return nil, nil, fmt.Errorf("%s: more bytes than entries", path)
		}
	}
	return stored, leaves, nil
}

// checkTiles compares every tile of the tree, and every other file of tiles that is there, with the
// hashes recomputed from the entries.
func checkTiles(dir string, size int64, stored hashStore) (int, error) {
	for _, tile := range tlog.NewTiles(tileHeight, 0, size) {
		// NewTiles also gives the partial tiles that a tree passed on its way.
		if tile.W < bundleWidth && tile.N<<tileHeight+int64(tile.W) != size>>(tileHeight*tile.L) {
			continue
		}
		if _, err := os.Stat(filepath.Join(dir, tilePath(tile))); err != nil {
			return 0, err
		}
	}
	checked := 0
	top := filepath.Join(dir, "tile")
	if size == 0 {
		return 0, nil
	}
	err := filepath.WalkDir(top, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if entry.IsDir() {
			if entry.Name() == "entries" {
				return filepath.SkipDir
			}
			return nil
		}
		rest, err := filepath.Rel(top, path)
		if err != nil {
			return err
		}
		tile, err := tlog.ParseTilePath(fmt.Sprintf("tile/%d/%s", tileHeight, filepath.ToSlash(rest)))
		if err != nil {
			return err
		}
		expected, err := tlog.ReadTileData(tile, stored)
		if err != nil {
			return fmt.Errorf("%s: %w", rest, err)
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		if !bytes.Equal(data, expected) {
			return fmt.Errorf("%s: not the hashes of the entries", rest)
		}
		checked++
		return nil
	})
	return checked, err
}

// checkInclusion lets Go build inclusion proofs from our tiles and verifies them.
func checkInclusion(tree tlog.Tree, reader tlog.HashReader, leaves []tlog.Hash) (int, error) {
	step := int64(1)
	if tree.N > allProofs {
		step = tree.N / sampleProofs
	}
	checked := 0
	for n := int64(0); n < tree.N; n += step {
		proof, err := tlog.ProveRecord(tree.N, n, reader)
		if err != nil {
			return checked, fmt.Errorf("prove entry %d: %w", n, err)
		}
		if err := tlog.CheckRecord(proof, tree.N, tree.Hash, n, leaves[n]); err != nil {
			return checked, fmt.Errorf("entry %d: %w", n, err)
		}
		checked++
	}
	return checked, nil
}

// checkConsistency verifies that the tree extends every checkpoint kept with it.
func checkConsistency(dir string, head checkpoint, known note.Verifiers, reader tlog.HashReader) (int, error) {
	files, err := filepath.Glob(filepath.Join(dir, "checkpoints", "*"))
	if err != nil {
		return 0, err
	}
	for checked, file := range files {
		msg, err := os.ReadFile(file)
		if err != nil {
			return checked, err
		}
		old, err := openCheckpoint(msg, known)
		if err == nil {
			err = extends(head, old, reader)
		}
		if err != nil {
			return checked, fmt.Errorf("%s: %w", file, err)
		}
	}
	return len(files), nil
}

func extends(head, old checkpoint, reader tlog.HashReader) error {
	if old.origin != head.origin {
		return fmt.Errorf("it is of another log, %q", old.origin)
	}
	if old.tree.N == 0 {
		return nil
	}
	proof, err := tlog.ProveTree(head.tree.N, old.tree.N, reader)
	if err != nil {
		return err
	}
	return tlog.CheckTree(proof, head.tree.N, head.tree.Hash, old.tree.N, old.tree.Hash)
}

// checkReceipts verifies the receipts kept with the tree, and that it extends their checkpoints.
func checkReceipts(dir string, head checkpoint, known note.Verifiers, reader tlog.HashReader, leaves []tlog.Hash) (int, error) {
	files, err := filepath.Glob(filepath.Join(dir, "receipts", "*.tlog-proof"))
	if err != nil {
		return 0, err
	}
	leafAt := func(index int64) (tlog.Hash, error) {
		if index < 0 || index >= int64(len(leaves)) {
			return tlog.Hash{}, fmt.Errorf("the tree has no entry %d", index)
		}
		return leaves[index], nil
	}
	for checked, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			return checked, err
		}
		cp, err := verifyProof(data, known, leafAt)
		if err == nil {
			err = extends(head, cp, reader)
		}
		if err != nil {
			return checked, fmt.Errorf("%s: %w", file, err)
		}
	}
	return len(files), nil
}
