package main

import (
	"encoding/json"
	"errors"
)

// errNoID says that a message does not carry an id where the uplink's identity puts it.
var errNoID = errors.New("message carries no id")

// identity says where the uplink puts the id: uplinks[].identity of the gateway's configuration.
type identity struct {
	mode    string // cloudevents or field
	idField string // field: id_field
	salt    string // field: salt_field
	body    string // field: body_field
}

// take returns the id of a message and its payload as the gateway decided it, but for white space.
func (i identity) take(payload []byte) (id, json.RawMessage, error) {
	var members map[string]json.RawMessage
	if json.Unmarshal(payload, &members) != nil {
		return id{}, nil, errNoID
	}
	name := "id"
	if i.mode == "field" {
		name = i.idField
	}
	var text string
	if json.Unmarshal(members[name], &text) != nil {
		return id{}, nil, errNoID
	}
	got, err := parseID(text)
	if err != nil {
		return id{}, nil, errNoID
	}
	if i.mode == "cloudevents" {
		return got, members["data"], nil
	}
	if body, wrapped := members[i.body]; wrapped {
		return got, body, nil
	}
	delete(members, i.idField)
	delete(members, i.salt)
	rest, err := json.Marshal(members)
	return got, rest, err
}
