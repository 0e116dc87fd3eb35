package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"time"

	"github.com/golang-jwt/jwt/v4"
)

var (
	fanfareURL      = os.Getenv("FANFARE_URL")
	jwtSecret       = []byte(os.Getenv("FANFARE_JWT_SECRET"))
	publishToken    = os.Getenv("FANFARE_PUBLISH_TOKEN")
	tokenSeconds, _ = strconv.Atoi(os.Getenv("TOKEN_SECONDS"))
	// Fanfare answers within milliseconds. When it does not, the user's request goes on without it.
	client = http.Client{Timeout: 2 * time.Second}
)

func topicOf(user string) string {
	return "user-" + user + ".orders"
}

// tokenOf allows its holder to subscribe to one user's topics.
func tokenOf(user string) string {
	now := time.Now().Unix()
	return sign(jwt.MapClaims{
		"sub":     "user-" + user,
		"iat":     now,
		"exp":     now + int64(tokenSeconds),
		"fanfare": map[string][]string{"subscribe": {"user-" + user + ".*"}},
	}, jwtSecret)
}

// setToken gives the browser a fresh token. The browser sends it to Fanfare as well, since cookies do not depend on the port.
func setToken(response http.ResponseWriter, user string) {
	setCookie(response, "fanfare_token", tokenOf(user))
}

// positionOf is the newest position of the user's stream, which then continues with what is published later.
func positionOf(user string) (string, error) {
	var snapshot struct{ ID string }
	err := ask("GET", "/dashboard/data?topic="+url.QueryEscape(topicOf(user)), tokenOf(user), nil, &snapshot)
	return snapshot.ID, err
}

func publish(topic string, data any) error {
	event, err := json.Marshal(map[string]any{"topic": topic, "data": data})
	if err != nil {
		return err
	}
	var published struct{ ID string }
	return ask("POST", "/publish", publishToken, event, &published)
}

func ask(method, target, token string, body []byte, answer any) error {
	request, err := http.NewRequest(method, fanfareURL+target, bytes.NewReader(body))
	if err != nil {
		return err
	}
	request.Header.Set("Authorization", "Bearer "+token)
	response, err := client.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if response.StatusCode >= 300 {
		return fmt.Errorf("%s %s: %s", method, request.URL, response.Status)
	}
	return json.NewDecoder(response.Body).Decode(answer)
}
