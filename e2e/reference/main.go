// Command reference reads image names as containerd's CRI plugin does, for a test that compares Lazaretto's reader with it.
//
// One JSON string a line on standard input; one JSON object a line on standard output: domain, path, tag, digest,
// or {"error":true} for a name that containerd refuses. The tag beside a digest, which containerd drops, is shown.
package main

import (
	"bufio"
	_ "crypto/sha256" // go-digest accepts the algorithms that are linked in; containerd has all three.
	_ "crypto/sha512"
	"encoding/json"
	"io"
	"log"
	"os"

	"github.com/distribution/reference"
)

type reading struct {
	Error  bool   `json:"error,omitempty"`
	Domain string `json:"domain"`
	Path   string `json:"path"`
	Tag    string `json:"tag,omitempty"`
	Digest string `json:"digest,omitempty"`
}

func read(text string) reading {
	named, err := reference.ParseDockerRef(text)
	if err != nil {
		return reading{Error: true}
	}
	read := reading{Domain: reference.Domain(named), Path: reference.Path(named)}
	if digested, ok := named.(reference.Digested); ok {
		read.Digest = digested.Digest().String()
	}
	if written, err := reference.ParseNormalizedNamed(text); err != nil {
		log.Fatalf("ParseDockerRef accepts %q, ParseNormalizedNamed does not: %v", text, err)
	} else if tagged, ok := written.(reference.Tagged); ok {
		read.Tag = tagged.Tag()
	}
	if tagged, ok := named.(reference.Tagged); ok {
		read.Tag = tagged.Tag()
	}
	return read
}

func main() {
	input := bufio.NewReaderSize(os.Stdin, 1<<16)
	output := bufio.NewWriter(os.Stdout)
	encoder := json.NewEncoder(output)
	for {
		line, err := input.ReadBytes('\n')
		if err == io.EOF && len(line) == 0 {
			break
		} else if err != nil {
			log.Fatal(err)
		}
		var text string
		if err := json.Unmarshal(line, &text); err != nil {
			log.Fatal(err)
		}
		if err := encoder.Encode(read(text)); err != nil {
			log.Fatal(err)
		}
		// Whoever asks in batches waits for the last answer: none may stay behind when there is nothing more to read.
		if input.Buffered() == 0 {
			if err := output.Flush(); err != nil {
				log.Fatal(err)
			}
		}
	}
}
